"""Checks of the statistics that make a norm."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lowrank.numerics.checks import check_number


def check_moment(moment: Tensor) -> None:
    """Raise ValueError unless it is symmetric and finite with a diagonal ≥ 0, not all zero."""
    check_tensor("a second moment", moment)
    shape = tuple(moment.shape)
    is_square = moment.ndim == 2 and shape[0] == shape[1] > 0
    if not is_square or not moment.is_floating_point():
        raise ValueError(
            f"a second moment is a square floating-point matrix, not {shape} {moment.dtype}"
        )
    # A sum is finite only if all its terms are; in float16 it may also overflow.
    if not bool(moment.sum(dtype=torch.float64).isfinite()):
        bad = int((~moment.isfinite()).sum())
        raise ValueError(f"{bad} entries of a second moment are NaN or infinite: calibrate anew")
    _check_squares("the diagonal of a second moment", moment.diagonal())
    largest = moment.diagonal().max()
    if float((moment - moment.T).abs_().max()) > 1e-4 * float(largest):
        raise ValueError("a second moment must be symmetric, and this matrix is not")


def check_importance(name: str, values: Tensor) -> None:
    """Raise ValueError unless they are weights of a mean square: ≥ 0, finite, not all zero."""
    check_tensor(name, values)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{name}: a non-empty vector is needed, not shape {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        bad = int((~values.isfinite()).sum())
        raise ValueError(f"{name}: {bad} of {values.numel()} are NaN or infinite: calibrate anew")
    _check_squares(name, values)


def _check_squares(name: str, values: Tensor) -> None:
    """Raise ValueError unless these finite numbers are ≥ 0, and not all zero."""
    if float(values.min()) < 0:
        raise ValueError(f"{name}: {float(values.min()):.3g} is negative, and a mean square is not")
    if float(values.max()) == 0:
        raise ValueError(f"{name}: all {values.numel()} are zero, so that no error would count")


def check_damping(damping: Any) -> None:
    """Raise ValueError unless it is a finite number of at least 0."""
    check_number("damping", damping, "be at least 0 and finite", lambda x: 0 <= x < math.inf)


def check_tensor(name: str, values: object) -> None:
    """Raise ValueError unless it is a tensor of real numbers."""
    if not isinstance(values, Tensor) or values.is_complex() or values.dtype == torch.bool:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name}: a tensor of real numbers is needed, not {kind}: torch.tensor(…)")


def check_fits(name: str, values: Tensor | None, weight: Tensor, length: int) -> None:
    """Raise ValueError unless statistics of this length are given, or none."""
    if values is not None and len(values) != length:
        raise ValueError(
            f"{name} of length {len(values)} do not fit a weight of shape {tuple(weight.shape)}, "
            f"which needs {length}: these are statistics of another layer or model"
        )
