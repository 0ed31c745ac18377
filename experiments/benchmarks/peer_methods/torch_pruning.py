"""Magnitude pruning by PyTorch itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import prune

from experiments.benchmarks.peer_methods.method import (
    Kept,
    Method,
    Outcome,
    Subject,
    in_half,
    sparse_bits,
    tensor_bits,
)


@dataclass(frozen=True)
class TorchPruning(Method):
    """`torch.nn.utils.prune.l1_unstructured`, each matrix by itself.

    Args:
        sparsity: share of the weights that become zero.
    """

    sparsity: float

    @property
    def name(self) -> str:
        return "torch.nn.utils.prune"

    def compress(self, subject: Subject) -> Outcome:
        return Outcome({name: self._layer(weight) for name, weight in subject.weights().items()})

    def _layer(self, weight: Tensor) -> Kept:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight.data = weight.clone()
        prune.l1_unstructured(layer, "weight", self.sparsity)
        pruned = layer.weight.detach()
        held = tensor_bits(layer.get_parameter("weight_orig"), layer.get_buffer("weight_mask"))
        return Kept(in_half(pruned), sparse_bits(pruned), held)
