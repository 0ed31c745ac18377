"""What ranks cost, for the allocations that spend a number of parameters on them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lowrank import memo


def check_compression_ratio(ratio: float) -> None:
    """Raise ValueError unless a compression ratio asks for something smaller."""
    if not ratio > 1:
        raise ValueError(f"compression_ratio={ratio} must be above 1")


def parameter_budget(matrices: Mapping[str, Tensor], ratio: float) -> float:
    """The parameters that a compression ratio of matrices (out, in) together allows.

    Raises:
        ValueError: rank 1 in every matrix needs more.
    """
    dense = sum(matrix.numel() for matrix in matrices.values())
    smallest = sum(sum(matrix.shape) for matrix in matrices.values())
    if smallest > dense / ratio:
        raise ValueError(
            f"compression_ratio={ratio} is out of reach: rank 1 in every layer gives "
            f"{dense / smallest:.3g}. Lower it, or select larger layers with `where`."
        )
    return dense / ratio


def stored_params(matrices: Mapping[str, Tensor], ranks: Mapping[str, int]) -> int:
    """Parameters of truncated SVDs of these ranks; one that would not be smaller stays dense."""
    return sum(
        min(rank * sum(matrices[name].shape), matrices[name].numel())
        for name, rank in ranks.items()
    )


def singular_values(matrix: Tensor) -> Tensor:
    """The singular values of a matrix (out, in), descending, in float64; memoised."""
    working = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    return memo.svd(working)[1].double()
