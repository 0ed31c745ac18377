"""What a hybrid must beat: its parts alone, given the same bytes."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace

import torch
from torch import Tensor

from lowrank.decomposers import budget
from lowrank.decomposers.alps import ALPS
from lowrank.decomposers.budget import stored_bytes
from lowrank.decomposers.gptq import GPTQ
from lowrank.decomposers.low_rank import nearest
from lowrank.decomposers.rounding import Grid
from lowrank.factorizations import Dense, Factorization, Product
from lowrank.factorizations.packing import BITS
from lowrank.factorizations.sparse import BlockGrid
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
        ValueError: a part that takes more bytes than the hybrid, or neither it nor any part is
            finite in the dtype of the weight.
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
    if not math.isfinite(least) and not is_finite(best):
        raise ValueError(
            f"{hybrid.describe()} has numbers too large for {weight.dtype}: the terms of which it "
            "is the sum grow without bound. Take a norm with damping, or a smaller form"
        )
    if best is not hybrid:
        times = error / least if least else float("inf")
        hybrid_is = f"{hybrid.describe()} of {allowed} bytes has {times:.3g} times its error"
        best.note = "; ".join(filter(None, (best.note, f"instead of a hybrid: {hybrid_is}")))
    return best


def better_than_svd(weight: Tensor, norm: Norm, hybrid: Factorization) -> Factorization:
    """The nearer of a hybrid of which low rank is the first part, and the truncated SVD.

    Where the hybrid would not be smaller than the weight, the weight itself.
    """
    form = budget.dense_unless_smaller(weight, hybrid)
    if isinstance(form, Dense):
        return form
    return better_of(weight, norm, form, svd_within(weight, norm, stored_bytes(form)))


def error_of(weight: Tensor, norm: Norm, form: Factorization) -> float:
    """‖W − Ŵ‖ of what is stored; infinite where that is not finite."""
    error = norm(weight.double() - form.to_dense().detach().double())
    return error if error == error else math.inf


def is_finite(form: Factorization) -> bool:
    """Whether every entry is, as it is stored."""
    return bool(form.to_dense().isfinite().all())


def svd_within(weight: Tensor, norm: Norm, limit: float) -> Factorization | None:
    """The truncated SVD of the largest rank that takes at most `limit` bytes; None if none does.

    Where that is as large as the weight, the weight itself.
    """
    if limit >= budget.dense_bytes(weight):
        return Dense(weight.clone())
    rank = min(int(limit // (sum(weight.shape) * weight.itemsize)), *weight.shape)
    if rank < 1:
        return None
    left, right, note = nearest(weight, rank, norm)
    return Product(Dense(left), Dense(right), note=note)


def sparse_within(weight: Tensor, norm: Norm, limit: float) -> Factorization | None:
    """`ALPS` with the most single weights that take at most `limit` bytes; None if none does."""
    if limit >= budget.dense_bytes(weight):
        return Dense(weight.clone())
    grid = BlockGrid((weight.shape[0], weight.shape[1]))
    count = budget.affordable(grid, limit, weight.itemsize)
    if not count:
        return None
    return ALPS(sparsity=1 - count / grid.count, iterations=30).decompose(weight, norm)


def quantized_within(weight: Tensor, norm: Norm, method: GPTQ, limit: float) -> list[Factorization]:
    """Plain quantizations that take at most `limit` bytes, with the other settings of a method.

    Of the two largest numbers of bits that fit, each in the smallest groups that fit; none where
    one scale for each row is too much.
    """
    fitting = []
    for bits in BITS:
        sizes = range(1, weight.shape[1] + 1)

        def saved(size: int, bits: int = bits) -> float:
            return -quantized_bytes(weight, replace(method, bits=bits, group_size=size))

        place = bisect_left(sizes, -limit, key=saved)
        if place < len(sizes):
            fitting.append(replace(method, bits=bits, group_size=sizes[place]))
    return [plain.decompose(weight, norm) for plain in fitting[-2:]]


def quantized_bytes(weight: Tensor, method: GPTQ) -> int:
    """What a method's result takes for a weight (out, in), whatever its numbers."""
    rounding = method.rounding()
    count = rounding.layout(weight).count
    blank = Grid(method.bits, *torch.zeros(2, count, dtype=torch.float64))
    form = rounding.quantized(torch.zeros(weight.shape), blank, weight.dtype)
    # Not `stored_bytes`: of zeros, no scale needs more than 16 bits.
    return sum(tensor.nbytes for tensor in form.state_dict().values())
