"""Ranks of adapters: one budget of trained numbers, spent where the loss asks for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lowrank.allocation.allocation import Allocation, Plan, Problem
from lowrank.calibration import Calibration
from lowrank.calibration.data import as_data
from lowrank.calibration.gradients import gradients
from lowrank.decomposers import Adapter, Decomposer
from lowrank.decomposers.decomposer import Unfit, first_level
from lowrank.model.sites import Site
from lowrank.norms import Norm
from lowrank.numerics.checks import check_integer, check_is, check_one_of
from lowrank.numerics.marginal_gains import by_marginal_gain
from lowrank.numerics.precision import working
from lowrank.numerics.spectral import singular_values

SCORES = ("gradient", "weight")


@dataclass(frozen=True)
class AdapterRanks(Allocation):
    """Adapters of one kind whose ranks together train a given number of numbers.

    The squared singular values of a matrix of each layer are what its ranks gain, and the rank that
    gains most per trained number comes first, wherever it is.

    - ``gradient``: of the mean gradient of the loss, as shares of the layer. An optimizer such as
      Adam moves all layers alike, however small their gradients; if each layer's update is measured
      in units of 1/‖gradient‖, no other choice of ranks, at the same number of numbers, has an
      update of a given length that lowers the loss faster at the start.
    - ``weight``: of the weight. Ranks go where PiSSA finds most, without data.

    Every layer's adapter counts as often as the given one (its alpha follows its rank). Gradients
    are those of the dense weights, not of a compressed base, and say nothing of what comes after
    the first steps.

    Args:
        adapter: the kind, such as LoRA(rank=4, alpha=8); none with random factors, such as VeRA.
        params: trained numbers of all layers together; if not given, as many as `adapter` trains
            with its own rank in every layer that it fits; the others are in the report, as
            "unfit", and get ranks of the same budget.
        score: ``gradient`` or ``weight``.
        least: rank of every layer, at least 0; a layer of rank 0 stays as its base.
        examples: of the calibration data for the gradient, from the first on and in whole batches;
            all if not given.
        batch_size: examples that run at once, if the data are a task's.

    Raises:
        ValueError: no such adapter, or a number out of its range; from `compress`, a budget below
            the least ranks, no data for a gradient, or a loss that depends on none of the layers.

    Source: the marginal gain is that of EVA's redistribution of ranks (Paischer et al., 2024,
    section 3.3, there by the variance of activations), the gradient's singular values those of
    LoRA-GA (Wang, Yu & Li, NeurIPS 2024), whose first-order argument it is.
    """

    adapter: Adapter
    params: int | None = None
    score: Literal["gradient", "weight"] = "gradient"
    least: int = 1
    examples: int | None = 256
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_is("adapter", self.adapter, Adapter, "LoRA(rank=4, alpha=8)")
        if not self.adapter.follows_directions:
            raise ValueError(
                f"adapter={self.adapter} has random factors, whose ranks follow no singular "
                "direction, so that none gains what the scores say: give it one rank in every "
                "layer, without AdapterRanks, or take one such as LoRA(rank=4, alpha=8)"
            )
        check_one_of("score", self.score, SCORES)
        check_integer("least", self.least, least=0)
        check_integer("batch_size", self.batch_size, least=1)
        for name, value in (("params", self.params), ("examples", self.examples)):
            if value is not None:
                check_integer(name, value, least=1)

    @property
    def family(self) -> str:
        return self.adapter.family

    @property
    def level(self) -> float | None:
        return first_level([self.params, self.adapter])

    @property
    def needs_data(self) -> bool:
        return self.score == "gradient"

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        self.adapter.check_norms(types)

    def check_shapes(self, problem: Problem) -> None:
        self._budget(problem.sites)

    def allocate(self, problem: Problem) -> Plan:
        budget = self._budget(problem.sites)
        if self.score == "weight":
            matrices = {site.name: self._seen(site) for site in problem.sites}
        else:
            matrices = self._gradients(problem)
        gains = {s.name: energies(matrices.get(s.name), self._seen(s)) for s in problem.sites}
        if self.score == "gradient":
            gains = {name: shares(own) for name, own in gains.items()}
        if not any(map(any, gains.values())):
            raise ValueError(
                f"every {self.score} of the selected layers is zero, so that no rank gains "
                "anything: give other data, or select other layers with `where`"
            )
        costs = {site.name: self._costs(site) for site in problem.sites}
        taken = by_marginal_gain([*gains.values()], [*costs.values()], budget, self.least)
        ranks = dict(zip(gains, taken, strict=True))
        given = {name: self.adapter.at_rank(r) if r else None for name, r in ranks.items()}
        alone = self.adapter.without()
        plan: dict[str, Decomposer | None] = {n: one or alone for n, one in given.items()}
        return Plan(
            {name: one for name, one in plan.items() if one is not None},
            self._summary(ranks, gains, costs, budget, self._unfit(problem.sites)),
        )

    def _summary(
        self,
        ranks: dict[str, int],
        gains: dict[str, list[float]],
        costs: dict[str, list[int]],
        budget: int,
        unfit: Sequence[str],
    ) -> dict[str, Any]:
        def share(chosen: dict[str, int]) -> float:
            kept = (math.fsum(gains[name][:rank]) for name, rank in chosen.items())
            return math.fsum(kept) / math.fsum(map(math.fsum, gains.values()))

        uniform = {name: 0 if name in unfit else self.adapter.rank for name in ranks}
        found = {
            "score": self.score,
            "ranks": ranks,
            "params": sum(sum(costs[name][:rank]) for name, rank in ranks.items()),
            "budget": budget,
            "kept_energy": share(ranks),
            "kept_energy_by_one_rank": share(uniform),
        }
        return found | ({"unfit": list(unfit)} if unfit else {})

    def _budget(self, sites: Sequence[Site]) -> int:
        """The number of trained numbers.

        Raises:
            ValueError: the least ranks take more, or are above the sides of a layer.
        """
        shapes = {site.name: shape_of(self._seen(site)) for site in sites}
        narrow = [name for name, shape in shapes.items() if self.least > min(shape)]
        if narrow:
            raise ValueError(f"least={self.least} is above the sides of the layers {narrow}")
        unfit = self._unfit(sites)
        if self.params is None and len(unfit) == len(shapes):
            raise ValueError(
                f"{self.adapter} fits none of the layers {unfit}, so that it sets no budget: give "
                "`params`, or a lower rank"
            )
        counted = (self.adapter.trained(s) for name, s in shapes.items() if name not in unfit)
        budget = sum(counted) if self.params is None else self.params
        costs = [self.adapter.at_rank(self.least or 1).trained(shape) for shape in shapes.values()]
        smallest = sum(costs) if self.least else min(costs)
        if smallest > budget:
            where = f"rank {self.least} in every layer" if self.least else "rank 1 in one layer"
            raise ValueError(
                f"params={budget} is out of reach: {where} takes {smallest}. Raise it, or "
                "take an adapter of fewer numbers"
            )
        return budget

    def _unfit(self, sites: Sequence[Site]) -> list[str]:
        """The layers that the adapter, with its own rank, does not fit."""
        return [site.name for site in sites if not self._fits(site)]

    def _fits(self, site: Site) -> bool:
        try:
            self.adapter.check_shape(self._seen(site))
        except Unfit as error:
            # At its nearest level, as of the base, it has the same rank.
            return error.nearest is not None
        return True

    def _costs(self, site: Site) -> list[int]:
        """What each further rank of a layer adds."""
        shape = shape_of(self._seen(site))
        ranks = range(1, min(shape) + 1)
        totals = [0, *(self.adapter.at_rank(rank).trained(shape) for rank in ranks)]
        return [after - before for before, after in zip(totals, totals[1:], strict=False)]

    def _seen(self, site: Site) -> Tensor:
        """The weight as the matrix that the adapter sees."""
        return site.matrix(self.adapter.kernel_view())

    def _gradients(self, problem: Problem) -> dict[str, Tensor]:
        """The mean gradient of each weight, as the matrix that the adapter sees."""
        if problem.data is None or isinstance(problem.data, Calibration):
            raise ValueError(
                "the gradient of the loss needs data that the model can run on: give `data`, a "
                "task or batches with labels; or score='weight', which needs none"
            )
        data = as_data(problem.data, self.batch_size)
        data.check(problem.model)
        sites, sums = {site.name: site for site in problem.sites}, dict[str, Tensor]()
        for of_batch in gradients(problem.model, sites, data, self.examples):
            for name, gradient in of_batch.items():
                sums[name] = sums[name] + gradient if name in sums else gradient
        view = self.adapter.kernel_view()
        uses = {name: sites[name].uses[0] for name in sums}
        return {n: use.rule.as_matrix(use.module, sums[n], view) for n, use in uses.items()}


def shape_of(matrix: Tensor) -> tuple[int, int]:
    """(out, in)"""
    return matrix.shape[0], matrix.shape[1]


def energies(matrix: Tensor | None, weight: Tensor) -> list[float]:
    """Squared singular values of a matrix of the shape of a weight, those of rounding errors as 0.

    Args:
        matrix: None where there is none, for zeros.
    """
    rank = min(weight.shape)
    if matrix is None or not bool(matrix.any()):
        return [0.0] * rank
    s = singular_values(working(matrix), rank)
    noise = max(weight.shape) * torch.finfo(matrix.dtype).eps * s[0]
    return s.where(s > noise, 0).square().tolist()


def shares(values: list[float]) -> list[float]:
    """The shares of numbers in their sum; zeros where that is zero."""
    total = math.fsum(values)
    return [value / total for value in values] if total else values
