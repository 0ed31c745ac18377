"""Similarity of representations, layer by layer: linear centered kernel alignment (CKA)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.model.forward import evaluating
from lowrank.model.nested import tensors
from lowrank.model.sites import find_sites
from lowrank.tasks.agreement import real_of
from lowrank.tasks.task import Task


def cka(ours: Tensor, theirs: Tensor) -> float:
    """The debiased linear CKA of two representations of the same examples.

    HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)) of K = X Xᵀ and L = Y Yᵀ, with the unbiased estimator of
    HSIC: 1 for representations that are equal up to a rotation, a shift and a scale, about 0 for
    unrelated ones, and below 0 by chance. Without the correction it comes near 1 where there are
    more features than examples.

    Args:
        ours, theirs: (examples, features), finite; the numbers of features may differ.

    Raises:
        ValueError: fewer than 4 examples, other shapes, NaN, or a representation that is the same
            for all examples.

    Source: Kornblith, Norouzi, Lee & Hinton, ICML 2019, Eq. 3 and section 3; the unbiased HSIC:
    Song et al., JMLR 13, 2012, Eq. 5.
    """
    for one in (ours, theirs):
        if one.ndim != 2 or len(one) != len(ours) or len(one) < 4:
            raise ValueError(
                f"CKA needs two matrices (examples, features) of the same 4 examples or more, and "
                f"got {tuple(ours.shape)} and {tuple(theirs.shape)}"
            )
        if not bool(one.isfinite().all()):
            raise ValueError("CKA needs finite numbers, and a representation holds others")
    first, second = _gram(ours), _gram(theirs)
    own = _hsic(first, first), _hsic(second, second)
    if min(own) <= 0:
        raise ValueError("CKA is not defined for a representation that is alike for all examples")
    return _hsic(first, second) / (own[0] * own[1]) ** 0.5


@dataclass(frozen=True)
class LayerSimilarity:
    """The similarity of the outputs of layers.

    Attributes:
        cka: the debiased linear CKA, by layer, in the order of the model.
        left_out: the layers without one, each with the reason.
    """

    cka: Mapping[str, float]
    left_out: Mapping[str, str]


def layer_similarity(
    dense: nn.Module, compressed: nn.Module, task: Task, examples: int = 256
) -> LayerSimilarity:
    """The debiased linear CKA between the outputs of each layer of two models.

    The layers are the modules that hold a weight of the dense model, in its order. A representation
    has a row for each example; positions are features, and those of padding are 0.

    Args:
        examples: the first ones of the test split.

    Raises:
        ValueError: fewer than 4 examples.
    """
    held = {use.name for site in find_sites(dense) for use in site.uses}
    names = [name for name, _ in dense.named_modules() if name in held]
    batch = first_of(task, examples)
    both = [outputs_of(model, names, task, batch) for model in (dense, compressed)]
    found, left_out = {}, {}
    for name in names:
        own = [outputs[name] for outputs in both if name in outputs]
        if len(own) < 2:
            left_out[name] = "the model does not call it, or it gives no numbers for each example"
        elif not _differs(*own):
            left_out[name] = "its outputs are alike for all examples, so that CKA is not defined"
        else:
            found[name] = cka(*own)
    return LayerSimilarity(found, left_out)


def first_of(task: Task, examples: int) -> Batch:
    """The first examples of the test split as one batch."""
    test = task.split("test")
    return test.batch(torch.arange(min(examples, len(test))))


def outputs_of(model: nn.Module, names: list[str], task: Task, batch: Batch) -> dict[str, Tensor]:
    """What modules of a model give on a batch, by name, each float64 (examples, features)."""
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        del module, inputs
        tensor = next((one for one in tensors(outputs) if one.is_floating_point()), None)
        if tensor is not None and len(tensor) == len(batch):
            found[name] = _rows(tensor, batch)

    with ExitStack() as stack, evaluating(model), torch.inference_mode():
        for name in names:
            hook = model.get_submodule(name).register_forward_hook(partial(keep, name))
            stack.callback(hook.remove)
        task.forward(model, batch)
    return found


def _rows(outputs: Tensor, batch: Batch) -> Tensor:
    wide = outputs.detach().double()
    real = real_of(batch, wide.shape[:2])
    if real is not None:
        wide = wide * real.view(real.shape + (1,) * (wide.ndim - 2))
    return wide.flatten(1)


def _differs(*representations: Tensor) -> bool:
    return all(bool((one != one[:1]).any()) for one in representations)


def _gram(values: Tensor) -> Tensor:
    """K = X Xᵀ of the centred features, without its diagonal, as the unbiased HSIC takes it."""
    wide = values.detach().double()
    wide = wide - wide.mean(dim=0)
    gram = wide @ wide.T
    return gram.fill_diagonal_(0) / gram.abs().max().clamp(min=torch.finfo(torch.float64).tiny)


def _hsic(first: Tensor, second: Tensor) -> float:
    """The unbiased HSIC of two matrices with zero diagonals; Song et al. 2012, Eq. 5."""
    count = len(first)
    sums = first.sum(dim=0), second.sum(dim=0)
    total = (first * second).sum()
    total += sums[0].sum() * sums[1].sum() / ((count - 1) * (count - 2))
    total -= 2 / (count - 2) * (sums[0] @ sums[1])
    return float(total) / (count * (count - 3))
