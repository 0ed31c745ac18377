"""Low-rank parts that are trained next, and all that is beside them frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowrank.factorizations import Dense, Factorization, Product
from lowrank.factorizations.coded import Coded
from lowrank.model.factorized import FactorizedLayer
from lowrank.recovery.recovery import Progress, Recovery, silent
from lowrank.tasks import Task
from lowrank.tasks.task import SplitName


@dataclass(frozen=True)
class ThawLowRank(Recovery):
    """The low-rank parts of factorizations made trainable, and the rest of these frozen.

    Of sums that a method has made, low rank + sparse or quantized + low rank, so that a `FineTune`
    with ``scope="factorizations"`` trains the low-rank part alone, as the adapter of the rest.
    Factors that are held in codes, which no gradient can move, become dense matrices of the same
    values: the outputs stay the same up to rounding, and the bytes grow. `DecomposeLeaves` after
    the training makes factors of few bits again.

    Low-rank parts are the outermost products with an inner dimension below that of the weight.
    Adapters are such parts already and stay as they are, so that what they have frozen, and the
    base beside them, stays frozen. Layers without such a part are frozen whole.

    Raises:
        ValueError: from `recover`, a compressed model without a low-rank part.

    Source: Guo et al., ICLR 2024 (LQ-LoRA: the low-rank part trained, the quantized one fixed);
    Saha et al., NeurIPS 2024 (CALDERA, whose factors are fine-tuned afterwards).
    """

    @property
    def changes_dense(self) -> bool:
        return False

    @property
    def tunes(self) -> bool:
        return False

    @property
    def changes_forms(self) -> bool:
        return True

    @property
    def learns_from(self) -> SplitName | None:
        return None

    def check(self, network: nn.Module) -> None:
        # Only the compressed model has low-rank parts.
        pass

    def check_forms(self, model: nn.Module) -> None:
        forms = _forms(model).values()
        if forms and not any(map(low_rank_parts, forms)):
            raise ValueError(
                f"the model has no low-rank part: its factorizations are such as "
                f"{next(iter(forms)).describe()}. Take a method with one, such as "
                "LowRankPlusSparse, or put an adapter over it: LoRA(rank=8, alpha=16, base=…)"
            )

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        self.check_forms(model)
        made: dict[int, Dense] = {}
        with torch.inference_mode(False):
            found = {name: thaw(form, made) for name, form in _forms(model).items()}
        return {"low_rank": found}


def thaw(form: Factorization, made: dict[int, Dense]) -> list[str]:
    """Make the low-rank parts of a factorization trainable and freeze the rest, in place.

    Args:
        made: the dense matrices that stand for leaves of codes so far, by the identity of the leaf,
            so that layers go on sharing what they share.

    Returns:
        What the parts are now; none if all is frozen.
    """
    parts = low_rank_parts(form)
    own = {id(p) for part in parts if part.adapts for p in part.parameters()}
    for parameter in form.parameters():
        if id(parameter) not in own:
            parameter.requires_grad_(False)
    for part in parts:
        if not part.adapts:
            _replace_codes(part, made)
            part.requires_grad_(True)
    return [part.describe() for part in parts]


def low_rank_parts(form: Factorization) -> list[Factorization]:
    """The adapters of a form, whose base is frozen; else its outermost products of a rank below
    that of the weight."""
    found = list(_outermost(form, lambda part: part.adapts))
    return found or list(_outermost(form, _is_low_rank))


def _outermost(
    module: nn.Module, wanted: Callable[[Factorization], bool]
) -> Iterator[Factorization]:
    if isinstance(module, Factorization) and wanted(module):
        yield module
        return
    for child in module.children():
        yield from _outermost(child, wanted)


def _is_low_rank(form: Factorization) -> bool:
    if not isinstance(form, Product):
        return False
    factors = [factor for factor in form.factors if isinstance(factor, Factorization)]
    return min(factor.shape[0] for factor in factors[1:]) < min(form.shape)


def _replace_codes(part: Factorization, made: dict[int, Dense]) -> None:
    """Put dense matrices in the place of leaves that hold codes and nothing that is trained."""
    for parent in list(part.modules()):
        for name, leaf in list(parent.named_children()):
            if not isinstance(leaf, Coded) or any(True for _ in leaf.parameters()):
                continue
            if id(leaf) not in made:
                made[id(leaf)] = Dense(leaf.to_dense(), notes=leaf.notes).train(leaf.training)
            parent.add_module(name, made[id(leaf)])


def _forms(model: nn.Module) -> dict[str, Factorization]:
    """The factorization of each layer that has one."""
    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, FactorizedLayer))
    return {name: layer.factorization for name, layer in layers}
