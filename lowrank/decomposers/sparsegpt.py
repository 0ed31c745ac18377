"""SparseGPT: pruning column by column; the columns that follow compensate each error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowrank.approximation.patterns import NOfM
from lowrank.decomposers.pruning import Pruning
from lowrank.factorizations import Factorization, Sparse
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import check_integer, check_one_of
from lowrank.numerics.curvature import (
    UNPAIRED,
    compensation,
    inverse_factor,
    is_diagonal,
    raised,
)
from lowrank.numerics.elimination import Settle, eliminate, eliminate_in_turn
from lowrank.numerics.ranking import relative
from lowrank.numerics.survivors import exact_update


@dataclass(frozen=True)
class SparseGPT(Pruning):
    """W ≈ a sparse matrix whose survivors compensate the pruned weights, in the full norm.

    Column by column, after a weight is pruned, the later weights of its row are updated to the
    least error. The weights with the least increase of the error, w² / U_jj² with Uᵀ U the inverse
    of the second moment, are pruned, with w as the columns before have left it. They are chosen for
    a block of columns at once, when its first column is reached; for N:M, for each group of M.
    Every block keeps the same share.

    The last step of ``update="exact"`` gives the survivors the values of least error for this mask,
    so it is never worse in the norm than ``"sequential"``, which is the paper's method and does not
    change earlier columns. Each row needs its own Cholesky factor: n⁴ / 24 multiplications for an
    n × n weight at 50 % zeros, where the rest takes n³. `ALPS` has better masks.

    In the identity and diagonal norms no weight can compensate another: the survivors keep their
    values, and only the blocks of columns make it differ from `MagnitudePruning`.

    The damping of the second moment belongs to the norm. A moment that is singular even so is
    raised by the least power of ten of its mean diagonal that makes it regular, and a note says by
    how much. Weights of inputs that are always zero are pruned first.

    Args:
        sparsity, compression_ratio, pattern: as in `MagnitudePruning`, for single weights or N:M.
        within: whether single weights are compared over all rows of a block of columns
            (``"matrix"``, as in the paper), or in each row alone.
        block_size: columns for which single weights are chosen at once; at least 1.
        update: ``"exact"`` or ``"sequential"``.

    Raises:
        ValueError: another pattern; no weight would survive.

    Source: Frantar & Alistarh, ICML 2023, algorithm 1.
    """

    block_size: int = 128
    update: Literal["exact", "sequential"] = "exact"

    norms: ClassVar[tuple[type[Norm], ...]] = (Identity, Diagonal, Full)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("block_size", self.block_size, least=1)
        check_one_of("update", self.update, ("exact", "sequential"))
        if self._pattern.is_counted and self.pattern not in ("unstructured", "1x1"):
            raise ValueError(
                f"pattern={self.pattern!r} of SparseGPT must be 'unstructured' or N:M such as "
                "'2:4'; ALPS takes rows, columns and blocks"
            )

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        moment = norm.second_moment(weight)
        factor, share = inverse_factor(moment)
        values, kept = self._eliminate(weight, factor, norm.row_weights(weight))
        if self.update == "exact":
            values = exact_update(weight, kept, moment)
        sparse = Sparse.from_dense(values.to(weight.dtype), kept)
        sparse.notes = (UNPAIRED,) if is_diagonal(moment) else raised(share)
        return sparse

    def _eliminate(self, weight: Tensor, factor: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values (float64) and mask, both (out, in)."""
        choose, width = self._chooser(weight, factor, rows)
        columns = weight.shape[1]
        # Transposed, so that a column lies in one piece.
        rest = weight.double().T.clone(memory_format=torch.contiguous_format)
        dropped = torch.zeros_like(rest, dtype=torch.bool)
        gains = compensation(factor)

        def settle_block(begin: int, end: int) -> Tensor:
            block = slice(begin, end)
            torch.logical_not(choose(rest[block].T, block).T, out=dropped[block])

            def settler(first: int, last: int) -> Settle:
                return lambda place, values, errors: torch.mul(
                    values, dropped[begin + first + place], out=errors
                )

            return eliminate_in_turn(rest[block], gains[block, block], settler)

        eliminate(rest, gains, [*range(0, columns, width), columns], settle_block)
        kept = ~dropped
        return (rest * kept).T, kept.T

    def _chooser(
        self, weight: Tensor, factor: Tensor, rows: Tensor
    ) -> tuple[Callable[[Tensor, slice], Tensor], int]:
        """A function from the values of a block of columns to their mask, and the blocks' width."""
        pattern, columns = self._pattern, weight.shape[1]
        grid = pattern.grid((weight.shape[0], columns))
        total = self._count(weight, grid, weight)
        # Relative to the largest, so that no square overflows or vanishes.
        largest = weight.double().abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        importance = relative(factor.diagonal().square().reciprocal())
        importance = relative(rows)[:, None] * importance

        def choose(values: Tensor, block: slice) -> Tensor:
            losses = (values / largest).square_().mul_(importance[:, block])
            count = None
            if total is not None:  # The blocks together keep as many as the matrix must.
                count = total * block.stop // columns - total * block.start // columns
            return pattern.keep(losses, count, once=True)

        return choose, pattern.m if isinstance(pattern, NOfM) else self.block_size
