"""Elimination column by column: the columns not yet chosen compensate the error of each choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# The number of columns after which all later ones are updated by one matrix product; with 32, the
# block stays in the cache.
BLOCK = 32

# A function of the place of a column in its block and its optimal real values (out,) to the chosen
# values.
Choose = Callable[[int, Tensor], Tensor]
# The same, which writes these values less the chosen ones into a given tensor (out,).
Settle = Callable[[int, Tensor, Tensor], object]


def eliminate(
    rest: Tensor, factor: Tensor, edges: Sequence[int], settle: Callable[[int, int], Tensor]
) -> Tensor:
    """Settle columns block by block; the later columns compensate the errors of each block.

    The recursion splits the blocks into halves: the errors of the first half are applied to the
    second half by one product of large matrices, and likewise within each half.

    Args:
        rest: the columns, a column a row, (n, out); changed.
        factor: U of `inverse_factor` for them, rows divided by its diagonal, (n, n).
        edges: where blocks begin, and the end: 0, …, n.
        settle: given the first column of a block and the one after its last, the errors of the
            block. `rest` then compensates the errors of all columns before.

    Returns:
        The errors of the columns, (n, out).
    """
    if len(edges) == 2:
        return settle(0, len(rest))
    errors = torch.empty_like(rest)

    def settle_blocks(first: int, last: int) -> None:
        if last - first == 1:
            begin, end = edges[first], edges[last]
            errors[begin:end] = settle(begin, end)
            return
        middle = (first + last) // 2
        settle_blocks(first, middle)
        begin, half, end = edges[first], edges[middle], edges[last]
        rest[half:end].addmm_(factor[begin:half, half:end].T, errors[begin:half], alpha=-1)
        settle_blocks(middle, last)

    settle_blocks(0, len(edges) - 1)
    return errors


def eliminate_in_turn(
    rest: Tensor, factor: Tensor, settler: Callable[[int, int], Settle]
) -> Tensor:
    """Choose the values of all columns in turn; the later columns compensate each error.

    Args:
        rest: the columns, a column a row, (n, out); changed to what each was when its turn came.
        factor: as of `eliminate`.
        settler: given the first column of a block and the one after its last, the function that
            chooses the values of its columns.

    Returns:
        The errors, (n, out), as of `eliminate`.
    """

    def settle(begin: int, end: int) -> Tensor:
        block, within, column = rest[begin:end], factor[begin:end, begin:end], settler(begin, end)
        errors = torch.empty_like(block)
        for place in range(end - begin):
            block[place].addmv_(errors[:place].T, within[:place, place], alpha=-1)
            column(place, block[place], errors[place])
        return errors

    return eliminate(rest, factor, [*range(0, len(rest), BLOCK), len(rest)], settle)


def sweep(
    missing: Tensor,
    moment: Tensor,
    order: Tensor,
    chooser: Callable[[int, int], tuple[Tensor, Choose]],
) -> None:
    """Coordinate descent: choose every column once anew, with the other columns fixed.

    The squared error is a parabola in each weight, so the allowed value nearest to its minimum is
    the best one, and no step increases the error.

    Args:
        missing: the weight less its approximation, transposed, (in, out); changed.
        moment: (in, in), with no zero on its diagonal.
        order: of the columns, (in,).
        chooser: given the first place of a block in this order and the one after its last, the
            values (n, out) of its columns, and the function that chooses new ones.
    """
    for begin in range(0, len(order), BLOCK):
        columns = order[begin : begin + BLOCK]
        before, choose = chooser(begin, begin + len(columns))
        rows = moment[columns] / moment.diagonal()[columns, None]
        wanted, within = (rows @ missing).add_(before), rows[:, columns]
        changes = torch.empty_like(wanted)
        for place in range(len(columns)):
            wanted[place].addmv_(changes[:place].T, within[place, :place], alpha=-1)
            torch.sub(choose(place, wanted[place]), before[place], out=changes[place])
        missing[columns] -= changes
