"""Comparison of a hybrid with its parts alone, given the same bytes."""

from __future__ import annotations

import math

from torch import Tensor

from lowrank.approximation.low_rank import nearest
from lowrank.factorizations import Dense, Factorization, Product
from lowrank.norms import Norm
from lowrank.numerics.storage import stored_bytes


def better_of(
    weight: Tensor, norm: Norm, hybrid: Factorization, *parts: Factorization | None
) -> Factorization:
    """The hybrid, or the nearest of the parts if it is nearer to the weight; of equals, the first.

    So a hybrid is never worse in the norm than one of its parts at the same bytes. Errors are those
    of the stored values, in the dtype of the weight. The note of a returned part says so.

    Args:
        weight: shape (out, in).
        norm: in which the error counts.
        hybrid: the factorization of the method.
        parts: factorizations by one of its steps alone, within the same bytes; None where none
            fits.

    Raises:
        ValueError: a part that takes more bytes than the hybrid, or the error of neither it nor any
            part is finite in the dtype of the weight.
    """
    hybrid = hybrid.to(weight.dtype)
    allowed, best = hybrid.nbytes, hybrid
    error = least = error_of(weight, norm, hybrid)
    for part in (part.to(weight.dtype) for part in parts if part is not None):
        if part.nbytes > allowed:
            raise ValueError(
                f"{part.describe()} takes {part.nbytes} bytes and {hybrid.describe()} "
                f"{allowed}: only what takes no more can be compared with it"
            )
        alone = error_of(weight, norm, part)
        if alone < least:
            best, least = part, alone
    if not math.isfinite(least):
        raise ValueError(
            f"{hybrid.describe()} has numbers too large for {weight.dtype}: they are those of the "
            "weight, or the terms of which it is the sum grow without bound. Scale the weight, "
            "take a norm with damping, or a smaller form"
        )
    if best is not hybrid:
        times = error / least if least else float("inf")
        hybrid_is = f"{hybrid.describe()} of {allowed} bytes has {times:.3g} times its error"
        best.notes += (f"instead of a hybrid: {hybrid_is}",)
    return best


def better_than_svd(weight: Tensor, norm: Norm, hybrid: Factorization) -> Factorization:
    """The nearer of a hybrid with a low-rank part and the truncated SVD of as many bytes.

    The weight itself, if the hybrid would not be smaller.
    """
    form = dense_unless_smaller(weight, hybrid)
    if isinstance(form, Dense):
        return form
    return better_of(weight, norm, form, svd_within(weight, norm, form.nbytes))


def error_of(weight: Tensor, norm: Norm, form: Factorization) -> float:
    """‖W − Ŵ‖ of the stored values; infinite if they are not finite."""
    error = norm(weight.double() - form.to_dense().detach().double())
    return error if error == error else math.inf


def svd_within(weight: Tensor, norm: Norm, limit: float) -> Factorization | None:
    """The truncated SVD of the largest rank that takes at most `limit` bytes; None if none does.

    Where that is as large as the weight, the weight itself.
    """
    if limit >= stored_bytes(weight):
        return Dense(weight.clone())
    rank = min(int(limit // (sum(weight.shape) * weight.itemsize)), *weight.shape)
    if rank < 1:
        return None
    left, right, notes = nearest(weight, rank, norm)
    return Product(Dense(left), Dense(right), notes=notes)


def dense_unless_smaller(weight: Tensor, form: Factorization) -> Factorization:
    """`form` in the weight's dtype, or the weight itself, with a note, if that is no larger."""
    form = form.to(weight.dtype)
    needed, dense = form.nbytes, stored_bytes(weight)
    if needed < dense:
        return form
    kept = f"kept dense: {form.describe()} needs {needed} bytes, dense has {dense}"
    return Dense(weight.clone(), notes=(kept,))
