"""What the allocations that spend a number of parameters on ranks have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lowrank import memo
from lowrank.allocation.allocation import Allocation, Plan, Problem
from lowrank.decomposers import TruncatedSVD, low_rank
from lowrank.decomposers.checks import check_one_of, check_ratio
from lowrank.decomposers.decomposer import working
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import Identity


@dataclass(frozen=True)
class RankAllocation(Allocation):
    """Truncated SVDs whose ranks together fit a number of parameters; a rule says which.

    Args:
        compression_ratio: dense over compressed parameters of the selected layers together, at
            least 1.
        view: as which matrix a convolution's kernel is factored (see `Convolve`).
    """

    norms = (Identity,)

    compression_ratio: float
    view: KernelView = "spatial"

    def __post_init__(self) -> None:
        check_ratio(self.compression_ratio)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def allocate(self, problem: Problem) -> Plan:
        matrices = {site.name: site.matrix(self.view) for site in problem.sites}
        ranks = self.ranks(matrices, parameter_budget(matrices, self.compression_ratio))
        return Plan({name: TruncatedSVD(rank=r, view=self.view) for name, r in ranks.items()})

    @abstractmethod
    def ranks(self, matrices: Mapping[str, Tensor], budget: float) -> dict[str, int]:
        """A rank for each matrix (out, in), `stored_params` of all together within `budget`."""


def parameter_budget(matrices: Mapping[str, Tensor], ratio: float) -> float:
    """The parameters that a compression ratio of matrices (out, in) together allows.

    Raises:
        ValueError: rank 1 in every matrix needs more.
    """
    dense = sum(matrix.numel() for matrix in matrices.values())
    smallest = stored_params(matrices, dict.fromkeys(matrices, 1))
    if smallest > dense / ratio:
        raise ValueError(
            f"compression_ratio={ratio} is out of reach: rank 1 in every layer gives "
            f"{dense / smallest:.3g}. Lower it, or select larger layers with `where`."
        )
    return dense / ratio


def stored_params(matrices: Mapping[str, Tensor], ranks: Mapping[str, int]) -> int:
    """Parameters of truncated SVDs of these ranks; one that would not be smaller stays dense."""
    return sum(low_rank.stored_params(matrices[name].shape, r) for name, r in ranks.items())


def singular_values(matrix: Tensor) -> Tensor:
    """The singular values of a matrix (out, in), descending, in float64; memoised."""
    return memo.svd(working(matrix))[1].double()
