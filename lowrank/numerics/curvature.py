"""Inverse second moments, for pruning and quantization that compensate errors column by column."""

from __future__ import annotations

import torch
from torch import Tensor

from lowrank.numerics import memo

# Shares of the mean diagonal that are added to it in turn, until a Cholesky factor exists.
ESCALATION = (0.0, *(10.0**exponent for exponent in range(-10, 1)))

# The note of a compensating method where the second moment is diagonal.
UNPAIRED = "nothing compensated: in this norm no two inputs come together"


@memo.memoised
def inverse_factor(moment: Tensor) -> tuple[Tensor, float]:
    """U upper triangular with Uᵀ U = (moment + shift)⁻¹, float64, and the shift it took.

    Row j of U holds what Gaussian elimination of the columns before j leaves: the best change of
    the columns after j where column j changes by e is e / U_jj · U_j,j+1… (Frantar et al., 2023).
    The inverse itself is never formed: the moment read backwards has a Cholesky factor, whose
    inverse read backwards is U.

    Args:
        moment: symmetric positive semi-definite, shape (in, in); it may be singular.

    Returns:
        U, and the share of the mean diagonal that had to be added to it to be definite in float64;
        0 for a matrix that is.

    Raises:
        ValueError: the matrix is far from positive semi-definite.
    """
    backwards = moment.double().flip(0, 1)
    mean = backwards.diagonal().mean()
    for share in ESCALATION:
        if share:
            shifted = backwards.clone()
            shifted.diagonal().add_(share * mean)
        else:
            shifted = backwards
        factor, failed = torch.linalg.cholesky_ex(shifted)
        # The pivots of a singular matrix are rounding errors, and so would be its inverse.
        if int(failed) == 0 and float(factor.diagonal().min()) ** 2 > 1e-12 * float(mean):
            del backwards, shifted  # Matrices of (in, in) are most of what a method holds.
            eye = torch.eye(len(factor), dtype=torch.float64, device=moment.device)
            inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
            del factor, eye
            return inverse.flip(0, 1), share
    raise ValueError(
        "a second moment stays indefinite with its mean added to its diagonal: it is no second "
        "moment. Calibrate anew."
    )


def compensation(factor: Tensor) -> Tensor:
    """U of `inverse_factor` with each row divided by its diagonal: the change of later columns, up
    to its sign, for an error of 1."""
    return factor / factor.diagonal()[:, None]


def without_dead(moment: Tensor) -> Tensor:
    """The moment with its mean on the diagonal where that is zero.

    An input that is always zero is uncorrelated with the others, so nothing else changes.
    """
    strength = moment.diagonal()
    dead = strength == 0
    return moment + torch.diag(dead * strength.mean()) if bool(dead.any()) else moment


def raised(share: float) -> tuple[str, ...]:
    """The note on damping that was added to that of the norm; none if none was."""
    if not share:
        return ()
    return (f"singular second moment: its diagonal raised by {share:.0e} of the mean",)


def is_diagonal(moment: Tensor) -> bool:
    """Whether the inputs are uncorrelated, so that no weight can compensate another one's error."""
    return int(moment.count_nonzero()) == int(moment.diagonal().count_nonzero())
