"""The common base of allocations that choose ranks within a number of bytes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lowrank.allocation.allocation import Allocation, Plan, Problem
from lowrank.allocation.budget import Budget
from lowrank.allocation.resources import RESOURCES
from lowrank.decomposers import TruncatedSVD
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import Identity
from lowrank.numerics import factors
from lowrank.numerics.checks import check_one_of, check_ratio


@dataclass(frozen=True)
class RankAllocation(Allocation):
    """Truncated SVDs whose ranks together fit a number of bytes; a rule says which.

    Args:
        compression_ratio: dense over compressed bytes, at least 1.
        view: as which matrix a convolution's kernel is factored (see `Convolve`).
        of: ``model``: of the whole model, with what is not compressed; ``layers``: of the selected
            weights together.
    """

    norms = (Identity,)

    compression_ratio: float
    view: KernelView = "spatial"
    of: Literal["model", "layers"] = "model"

    def __post_init__(self) -> None:
        check_ratio(self.compression_ratio)
        check_one_of("view", self.view, KERNEL_VIEWS)
        check_one_of("of", self.of, ("model", "layers"))

    @property
    def family(self) -> str:
        return "low rank"

    def check_shapes(self, problem: Problem) -> None:
        self._numbers(problem, self._matrices(problem))

    def allocate(self, problem: Problem) -> Plan:
        matrices = self._matrices(problem)
        ranks = self.ranks(matrices, self._numbers(problem, matrices))
        return Plan({name: TruncatedSVD(rank=r, view=self.view) for name, r in ranks.items()})

    @abstractmethod
    def ranks(self, matrices: Mapping[str, Tensor], budget: float) -> dict[str, int]:
        """A rank for each matrix (out, in), `stored_params` of all together within `budget`."""

    def _matrices(self, problem: Problem) -> dict[str, Tensor]:
        return {site.name: site.matrix(self.view) for site in problem.sites}

    def _numbers(self, problem: Problem, matrices: Mapping[str, Tensor]) -> float:
        """The number of parameters that the selected weights may have at the ratio.

        Raises:
            ValueError: rank 1 in every matrix needs more.
        """
        resource = RESOURCES["bytes"]
        dense = sum(resource.of_site(site, {}) for site in problem.sites)
        rest = resource.of_model(problem.model, None) - dense
        each = max(problem.values.itemsize(matrix.dtype) for matrix in matrices.values())
        budget = Budget(ratio=self.compression_ratio, of=self.of)
        # A rounding error must not exclude ranks that just fit.
        allowed = budget.allowance(problem.sites, dense, rest) * (1 + 1e-9)
        smallest = each * stored_params(matrices, dict.fromkeys(matrices, 1))
        if smallest > allowed:
            reached = budget.just(problem.sites, dense, rest, smallest)
            raise ValueError(
                f"compression_ratio={self.compression_ratio} is out of reach: rank 1 in every "
                f"layer gives {reached} of the {self.of}. Lower it, or select larger layers with "
                "`where`."
            )
        return allowed / each


def stored_params(matrices: Mapping[str, Tensor], ranks: Mapping[str, int]) -> int:
    """Parameters of truncated SVDs of these ranks; one that would not be smaller stays dense."""
    return sum(factors.stored_params(matrices[name].shape, r) for name, r in ranks.items())
