"""ASVD and SVD-LLM as their papers write them down: a truncated SVD of W·S, and S⁻¹ after it.

Plain code, neither the authors' programs nor lowrank's: what it takes to state the formula.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from experiments.benchmarks.peer_methods.method import (
    Kept,
    Method,
    Outcome,
    Subject,
    tensor_bits,
    weights_of,
)

BATCH = 8


@dataclass(frozen=True)
class Formula(Method):
    """W ≈ U_r Σ_r V_rᵀ S⁻¹ with U Σ Vᵀ the SVD of W·S.

    Args:
        params: share of a matrix's parameters that its two factors may have.
    """

    params: float

    def _factor(self, weight: Tensor, scaling: Tensor) -> Kept:
        """Both factors in 16 bits, for a scaling S (in, in)."""
        rows, columns = weight.shape
        rank = int(self.params * rows * columns / (rows + columns))
        left, right = (factor.half() for factor in factors(weight, scaling, rank))
        bits = tensor_bits(left, right)
        return Kept(left.float() @ right.float(), bits, bits)


@dataclass(frozen=True)
class ASVD(Formula):
    """S = diag(mean |x|)^0.5.

    Source: Yuan et al., 2023, section 3.2, with α = 0.5.
    """

    @property
    def name(self) -> str:
        return "ASVD's formula"

    def compress(self, subject: Subject) -> Outcome:
        sums = sums_over(subject, subject.model, subject.layers, lambda x: x.abs().sum(dim=0))
        scalings = {n: torch.diag((s / subject.tokens.numel()).sqrt()) for n, s in sums.items()}
        weights = subject.weights()
        return Outcome({name: self._factor(weights[name], s) for name, s in scalings.items()})


@dataclass(frozen=True)
class SVDLLM(Formula):
    """S the Cholesky factor of X Xᵀ: S Sᵀ = X Xᵀ.

    Args:
        sequential: X of the model whose blocks before are compressed, not of the dense one.

    Source: Wang et al., ICLR 2025, section 3.1.
    """

    sequential: bool = False

    @property
    def name(self) -> str:
        return "SVD-LLM's formula"

    def compress(self, subject: Subject) -> Outcome:
        model = copy.deepcopy(subject.model)
        kept: dict[str, Kept] = {}
        for layers in blocks(subject.layers) if self.sequential else [subject.layers]:
            moments = sums_over(subject, model, layers, lambda x: x.T @ x)
            for name, weight in weights_of(model, layers).items():
                kept[name] = self._factor(weight, torch.linalg.cholesky(moments[name]))
                weight.copy_(kept[name].weight)
        return Outcome(kept)


def factors(weight: Tensor, scaling: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """left (out, rank) and right (rank, in) of a weight (out, in) and S (in, in), float64."""
    u, s, vh = torch.linalg.svd(weight.double() @ scaling.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank] @ torch.linalg.inv(scaling.double())


@torch.no_grad()
def sums_over(
    subject: Subject,
    model: nn.Module,
    layers: tuple[str, ...],
    term: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """For each layer the sum of `term(x)` over batches of its inputs x, (tokens, in), float64."""
    sums: dict[str, Tensor] = {}

    def adding(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sums[name] = sums.get(name, 0) + term(inputs[0].flatten(0, -2)).double()

        return add

    hooks = [model.get_submodule(n).register_forward_pre_hook(adding(n)) for n in layers]
    try:
        for batch in subject.tokens.split(BATCH):
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def blocks(layers: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The layers of each block of the model, in their order: names equal up to the first number."""

    def block(name: str) -> str:
        found = re.match(r".*?\.\d+\.", name)
        return found[0] if found else name

    return [tuple(names) for _, names in groupby(layers, key=block)]
