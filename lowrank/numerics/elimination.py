"""Elimination column by column: those not yet chosen make up for the error of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Columns after which all others are updated, by one product of matrices: of 32 rows what is still
# to be chosen stays in the cache.
BLOCK = 32

# Given the place of a column in its block and the best real values for it (out,), those it gets.
Choose = Callable[[int, Tensor], Tensor]


def eliminate(
    rest: Tensor, factor: Tensor, edges: Sequence[int], settle: Callable[[int, int], Tensor]
) -> Tensor:
    """Settle columns block by block, the columns after each making up for its errors.

    What one half of the blocks leaves is added to the other half at once, and so on within each
    half: products of large matrices instead of a pass over all that follows for every block.

    Args:
        rest: the columns, a column a row, (n, out); changed.
        factor: U of `inverse_factor` for them, (n, n).
        edges: where blocks begin, and the end: 0, …, n.
        settle: given the first column of a block and the one after its last, with all before made
            up for in `rest`, the errors of the block.

    Returns:
        The errors, (n, out): what columns lose, in units of their rows of U.
    """
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
    rest: Tensor, factor: Tensor, chooser: Callable[[int, int], Choose]
) -> Tensor:
    """Choose the values of all columns in turn, those that follow making up for each error.

    Args:
        rest: the columns, a column a row, (n, out); changed to what each was when its turn came.
        factor: U of `inverse_factor` for them, (n, n).
        chooser: given the first column of a block and the one after its last, what chooses there.

    Returns:
        The errors, (n, out), as of `eliminate`.
    """

    def settle(begin: int, end: int) -> Tensor:
        block, within, choose = rest[begin:end], factor[begin:end, begin:end], chooser(begin, end)
        errors = torch.empty_like(block)
        for place in range(end - begin):
            block[place].addmv_(errors[:place].T, within[:place, place], alpha=-1)
            torch.sub(block[place], choose(place, block[place]), out=errors[place])
            errors[place].div_(within[place, place])
        return errors

    return eliminate(rest, factor, [*range(0, len(rest), BLOCK), len(rest)], settle)


def sweep(
    missing: Tensor,
    moment: Tensor,
    order: Tensor,
    chooser: Callable[[int, int], tuple[Tensor, Choose]],
) -> None:
    """Coordinate descent: choose every column once anew, as the errors of the others want it.

    The squared error is a parabola of one weight, so that the value nearest to its lowest point is
    the best one, and no step makes the error larger.

    Args:
        missing: what all columns together are off by, a column a row, (in, out); changed.
        moment: (in, in), with no zero on its diagonal.
        order: of the columns, (in,).
        chooser: given the first place of a block in this order and the one after its last, the
            values (n, out) that its columns have, and what chooses there.
    """
    for begin in range(0, len(order), BLOCK):
        columns = order[begin : begin + BLOCK]
        pull, within = moment[columns] @ missing, moment[columns][:, columns]
        before, choose = chooser(begin, begin + len(columns))
        changes = torch.empty_like(pull)
        for place in range(len(columns)):
            pull[place].addmv_(changes[:place].T, within[place, :place], alpha=-1)
            wanted = pull[place].div_(within[place, place]).add_(before[place])
            torch.sub(choose(place, wanted), before[place], out=changes[place])
        missing[columns] -= changes
