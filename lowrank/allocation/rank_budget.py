"""What ranks cost, for the allocations that spend a number of parameters on them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lowrank import memo
from lowrank.decomposers import low_rank
from lowrank.decomposers.decomposer import working


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
