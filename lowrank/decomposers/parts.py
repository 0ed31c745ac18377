"""What a hybrid must beat: its parts alone, given the same bytes."""

from __future__ import annotations

from torch import Tensor

from lowrank.decomposers.budget import stored_bytes
from lowrank.decomposers.low_rank import nearest
from lowrank.factorizations import Dense, Factorization, Product
from lowrank.norms import Norm


def better_of(
    weight: Tensor, norm: Norm, hybrid: Factorization, *parts: Factorization | None
) -> Factorization:
    """The hybrid, or the first of the parts that is nearest to the weight where that is nearer.

    So a hybrid is never worse in the norm than a part of it at the same bytes. Errors are those of
    what is stored, in the dtype of the weight. A part that is returned says so in its note.

    Args:
        weight: shape (out, in).
        norm: in which the error counts.
        hybrid: what the method made.
        parts: what one of its steps makes alone of the same bytes; None where nothing fits.

    Raises:
        ValueError: a part that takes more bytes than the hybrid.
    """
    hybrid = hybrid.to(weight.dtype)
    allowed, best = stored_bytes(hybrid), hybrid
    error = least = error_of(weight, norm, hybrid)
    for part in (part.to(weight.dtype) for part in parts if part is not None):
        if stored_bytes(part) > allowed:
            raise ValueError(
                f"{part.describe()} takes {stored_bytes(part)} bytes and {hybrid.describe()} "
                f"{allowed}: only what takes no more can be compared with it"
            )
        alone = error_of(weight, norm, part)
        if alone < least:
            best, least = part, alone
    if best is not hybrid:
        times = error / least if least else float("inf")
        does_not_pay = (
            f"one part alone: {hybrid.describe()} of {allowed} bytes does not pay here, with "
            f"{times:.3g} times the error"
        )
        best.note = "; ".join(filter(None, (best.note, does_not_pay)))
    return best


def error_of(weight: Tensor, norm: Norm, form: Factorization) -> float:
    """‖W − Ŵ‖ of what is stored."""
    working = weight.double()
    return norm(working - form.to_dense().detach().double())


def svd_within(weight: Tensor, norm: Norm, limit: float) -> Factorization | None:
    """The truncated SVD of the largest rank that takes at most `limit` bytes; None if none does.

    Where that is as large as the weight, the weight itself.
    """
    if limit >= weight.nbytes:
        return Dense(weight.clone())
    rank = min(int(limit // (sum(weight.shape) * weight.itemsize)), *weight.shape)
    if rank < 1:
        return None
    left, right, note = nearest(weight, rank, norm)
    return Product(Dense(left), Dense(right), note=note)
