"""A further method on trained factors and survivors: quantization after the training of a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lowrank.decomposers import Decomposer
from lowrank.factorizations import Dense, Factorization
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.select import matches
from lowrank.model.sites import find_weights
from lowrank.numerics.checks import check_is
from lowrank.recovery.recovery import Progress, Recovery, silent
from lowrank.tasks import Task
from lowrank.tasks.task import SplitName


@dataclass(frozen=True)
class DecomposeLeaves(Recovery):
    """Decomposition of every dense leaf of the factorizations, such as the survivors of pruning.

    What `Chain` does in one go, after training: survivors that were trained share the values of a
    codebook, whose centroids a `FineTune` after it trains. Errors count in the identity norm. The
    dense model has no factorizations and stays as it is.

    Args:
        decomposer: of all leaves but those of layers in `by_name`.
        by_name: decomposers by glob pattern of the layer's name.

    Raises:
        ValueError: what is no decomposer, or no mapping to some; from `check`, a pattern that
            matches no layer or two that match one; from `recover`, a layer without dense leaves,
            or the error of a decomposer.

    Source: Han, Mao & Dally, ICLR 2016 (pruning and its training before quantization).
    """

    decomposer: Decomposer
    by_name: Mapping[str, Decomposer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_is("decomposer", self.decomposer, Decomposer, "CodebookQuantization(5)")
        check_is("by_name", self.by_name, Mapping, "{'conv*': CodebookQuantization(8)}")
        for pattern, decomposer in self.by_name.items():
            check_is(f"the decomposer of {pattern!r}", decomposer, Decomposer, "Quantization(8)")

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
        names = [site.name for site in find_weights(network)[0]]
        idle = [one for one in self.by_name if not any(matches(name, one) for name in names)]
        if idle:
            raise ValueError(f"the patterns {idle} match no layer; the layers are {names}")
        for name in names:
            found = [one for one in self.by_name if matches(name, one)]
            if len(found) > 1:
                raise ValueError(f"the patterns {found} match one layer, '{name}', where one must")

    def check_forms(self, model: nn.Module) -> None:
        for name, layer in model.named_modules():
            if isinstance(layer, FactorizedLayer):
                check_leaves(name, layer.factorization)

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        made: dict[int, Factorization] = {}
        found = {}
        for name, layer in model.named_modules():
            if not isinstance(layer, FactorizedLayer):
                continue
            named = (d for pattern, d in self.by_name.items() if matches(name, pattern))
            decomposer = next(named, self.decomposer)
            form = layer.factorization
            if id(form) not in made:
                made[id(form)] = decomposed(name, form, decomposer)
            layer.factorization = made[id(form)]
            found[name] = layer.factorization.describe()
        return {"decomposed": found}


def check_leaves(name: str, form: Factorization) -> None:
    """Raise ValueError if a factorization, of the layer with that name, has no dense leaf."""
    if not any(isinstance(part, Dense) for part in form.modules()):
        raise ValueError(f"layer '{name}': {form.describe()} has no dense leaf to decompose")


def decomposed(name: str, form: Factorization, decomposer: Decomposer) -> Factorization:
    """A factorization with its dense leaves decomposed; frozen ones stay frozen.

    Args:
        name: of the layer, for errors.
    """
    check_leaves(name, form)

    def replaced(leaf: Dense) -> Factorization:
        try:
            result = decomposer.decompose(leaf.weight.detach())
        except ValueError as error:
            raise ValueError(f"layer '{name}': {error}") from error
        result.notes = leaf.notes + result.notes
        return result if leaf.weight.requires_grad else result.requires_grad_(False)

    return form.map_dense(replaced).train(form.training)
