"""What a form takes in bytes, and how many weights a number of bytes can hold."""

from __future__ import annotations

from bisect import bisect_right

from torch import Tensor

from lowrank.decomposers.decomposer import Unfit
from lowrank.factorizations import Dense, Factorization
from lowrank.factorizations.sparse import BlockGrid
from lowrank.numerics import storage


def dense_unless_smaller(weight: Tensor, form: Factorization) -> Factorization:
    """`form` in the weight's dtype, or the weight itself, with a note, where that is not larger."""
    form = form.to(weight.dtype)
    needed, dense = stored_bytes(form), dense_bytes(weight)
    if needed < dense:
        return form
    return Dense(
        weight.clone(),
        note=f"kept dense: {form.describe()} needs {needed} bytes, dense has {dense}",
    )


def dense_bytes(weight: Tensor) -> int:
    """What the weight itself takes, 16 bits a value where its numbers have no more."""
    return storage.stored_bytes(weight)


def stored_bytes(form: Factorization) -> int:
    """Bytes of the tensors of a form, as `measure.nbytes` counts them."""
    return sum(map(storage.stored_bytes, form.state_dict().values()))


def sparse_bytes(grid: BlockGrid, kept: int, itemsize: int) -> int:
    """Bytes of a sparse leaf of single weights that keeps so many, values and index."""
    return kept * itemsize + grid.index_bytes(kept)


def affordable(grid: BlockGrid, budget: float, itemsize: int) -> int:
    """The most single weights that a sparse leaf can keep in `budget` bytes; 0 if none."""
    counts = range(1, grid.count + 1)
    return bisect_right(counts, budget, key=lambda kept: sparse_bytes(grid, kept, itemsize))


def count_of(sparsity: float, total: int) -> int:
    """How many of `total` weights stay at this share of zeros.

    Raises:
        Unfit: none.
    """
    count = total - round(sparsity * total)
    if count < 1:
        raise Unfit(
            f"sparsity={sparsity} keeps none of {total} weights. Lower it, or leave this layer out "
            "with `where`."
        )
    return count


def largest(matrix: Tensor, count: int) -> Tensor:
    """The mask of exactly `count` entries of largest magnitude; of equal ones the first."""
    magnitude = matrix.abs().flatten()
    # Selected and not sorted, which for large matrices takes ten times as long.
    floor = magnitude.kthvalue(magnitude.numel() - count + 1).values
    mask = magnitude > floor
    equal = (magnitude == floor).nonzero()[:, 0]
    mask[equal[: count - int(mask.sum())]] = True
    return mask.view(matrix.shape)
