"""A grid of blocks, each of its own low rank, fitted in a norm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.norms import Norm, square_root
from lowrank.numerics.curvature import is_diagonal
from lowrank.numerics.factors import equally_scaled
from lowrank.numerics.memo import memoised

# Rows of weight zero get this share of the least importance among the others.
UNCOUNTED = 1e-3


class BlockedWeight(NamedTuple):
    """A weight cut into blocks, those at the lower and right edge perhaps smaller.

    Attributes:
        weight: (out, in), float64.
        moment: B, (in, in), float64.
        rows: the roots of the diagonal of A, (out, 1), above 0, float64.
        height, width: of a block.
    """

    weight: Tensor
    moment: Tensor
    rows: Tensor
    height: int
    width: int

    @classmethod
    def of(cls, weight: Tensor, norm: Norm, blocks: tuple[int, int]) -> BlockedWeight:
        """A weight cut into `blocks` (down, across), at most one for each row and column."""
        height, width = (-(-n // count) for n, count in zip(weight.shape, blocks, strict=True))
        rows = norm.row_weights(weight).expand(len(weight))
        rows = rows.where(rows > 0, UNCOUNTED * rows[rows > 0].min()).sqrt()[:, None]
        return cls(weight.double(), norm.second_moment(weight), rows, height, width)

    @property
    def columns(self) -> list[slice]:
        """The columns of each column of blocks."""
        inner = self.weight.shape[1]
        return [slice(at, min(at + self.width, inner)) for at in range(0, inner, self.width)]

    def stacked(self, part: Tensor) -> Tensor:
        """The blocks of a column of them, (down, height, width), the last filled up with zeros."""
        padded = torch.nn.functional.pad(part, (0, 0, 0, -len(part) % self.height))
        return padded.unflatten(0, (-1, self.height))

    def energies(self) -> list[Tensor]:
        """Squared singular values of the whitened blocks, (down, least side), descending, for each
        column of blocks."""
        return [
            block_energies(self.stacked(self.rows * self.weight[:, at] @ self.root(at)))
            for at in self.columns
        ]

    def root(self, at: slice) -> Tensor:
        """R with R Rᵀ = B of these columns."""
        return square_root(self.moment[at, at].contiguous())


@memoised
def block_svd(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The left singular vectors and the singular values of each of (count, height, width)."""
    u, s, _ = torch.linalg.svd(blocks, full_matrices=False)
    return u, s


@memoised
def block_energies(blocks: Tensor) -> Tensor:
    """The squared singular values of each of (count, height, width), several times faster than by
    SVDs and near enough to choose by."""
    sides = blocks if blocks.shape[1] <= blocks.shape[2] else blocks.mT
    return torch.linalg.eigvalsh(sides @ sides.mT).flip(1)


# left (height, rank) and right (rank, width) of each block, by column and row of the grid.
Factors = list[list[tuple[Tensor, Tensor]]]


def fit(grid: BlockedWeight, ranks: Tensor, iterations: int) -> Factors:
    """The blocks of these ranks, by coordinate descent over the columns of blocks.

    With the other columns of blocks fixed, one column is solved exactly: least squares without a
    bound on the rank, then a truncated SVD in the norm of its own inputs. So the error never grows,
    and the first pass alone gives the optimum where inputs are uncorrelated. The first pass starts
    from the blocks fitted alone, not from zero.

    Args:
        ranks: (down, across), integers.
        iterations: passes after the first.
    """
    factors = [
        nearest(grid, grid.weight[:, at], at, ranks[:, place])
        for place, at in enumerate(grid.columns)
    ]
    if is_diagonal(grid.moment):
        return factors
    missed = grid.weight - torch.cat([joined(column) for column in factors], dim=1)
    inverses = [torch.linalg.pinv(grid.moment[at, at], hermitian=True) for at in grid.columns]
    for _ in range(iterations):
        for place, at in enumerate(grid.columns):
            now = grid.weight[:, at] - missed[:, at]
            wanted = now + missed @ grid.moment[:, at] @ inverses[place]
            factors[place] = nearest(grid, wanted, at, ranks[:, place])
            missed[:, at] = grid.weight[:, at] - joined(factors[place])
    return factors


def nearest(
    grid: BlockedWeight, wanted: Tensor, at: slice, ranks: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """The factors of the blocks of a column, nearest to `wanted` (out, width) in its own norm."""
    scaled = grid.rows * wanted
    u, _ = block_svd(grid.stacked(scaled @ grid.root(at)))
    found = []
    for block, rows, basis, rank in zip(
        scaled.split(grid.height), grid.rows.split(grid.height), u, ranks.tolist(), strict=True
    ):
        basis = basis[: len(block), :rank]
        found.append(equally_scaled(basis / rows, basis.T @ block))
    return found


def joined(column: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The matrix (out, width) of the blocks of a column."""
    return torch.cat([left @ right for left, right in column])


def within(grid: BlockedWeight, params: float) -> Tensor | None:
    """The ranks (down, across) of least error, blocks fitted alone, within a number of parameters.

    Each singular value costs height + width parameters. In grids of equal blocks, taking the
    largest values is optimal; with smaller blocks at the edge it is within one step of the optimum.
    Every row and every column of blocks gets at least one. None if not even that fits.
    """
    energies = grid.energies()
    out, inner = grid.weight.shape
    heights = [min(grid.height, out - at) for at in range(0, out, grid.height)]
    ranks = torch.zeros(len(heights), len(energies), dtype=torch.int64)
    steps = sorted(
        (-float(energy) / (height + at.stop - at.start), order, row, place)
        for place, (column, at) in enumerate(zip(energies, grid.columns, strict=True))
        for row, height in enumerate(heights)
        for order, energy in enumerate(column[row, : min(height, at.stop - at.start)])
    )
    first = [step for step in steps if step[1] == 0]
    needed = {min(step for step in first if step[2] == row) for row in range(len(heights))}
    covered = {step[3] for step in needed}
    for place in sorted(set(range(len(energies))) - covered):
        needed.add(min(step for step in first if step[3] == place))
    left = params
    for step in sorted(needed) + [step for step in steps if step not in needed]:
        _, _, row, place = step
        price = heights[row] + min(grid.width, inner - place * grid.width)
        if price <= left:
            ranks[row, place] += 1
            left -= price
        elif step in needed:
            return None
    return ranks
