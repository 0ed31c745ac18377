"""FAµST: a product of several sparse factors, by proximal alternating minimisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.approximation.comparison import better_of, dense_unless_smaller
from lowrank.approximation.sparse_part import sparse_within
from lowrank.decomposers.decomposer import Decomposer, Unfit, at_reachable
from lowrank.factorizations import Factorization, Product, Sparse
from lowrank.factorizations.block_grid import BlockGrid
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import check_integer, check_number, check_one_of, check_ratio
from lowrank.numerics.conjugate_gradients import descend
from lowrank.numerics.ranking import largest_entries
from lowrank.numerics.storage import stored_bytes

# The factor by which a step is shorter than the longest that cannot raise the error.
SHORTER = 1.001


@dataclass(frozen=True)
class SparseFactors(Decomposer):
    """W ≈ S_1 S_2 … S_J, all sparse: the large one of the weight's shape, the others square.

    The start is pruning: the large factor holds the largest entries of W, the square ones, on its
    shorter side, are identities. Then each factor in turn takes a gradient step of the length that
    its neighbours allow and keeps its largest entries (palm4MSA), so that the error in the norm
    never grows; at the end the values on the supports that were found take some steps of conjugate
    gradients. In a norm from data the gradient is that of the error in it. A local optimum, and
    not the hierarchical start of the paper, which needs weights of transforms.

    It pays for fast transforms (Hadamard, wavelets), whose factors have few entries a row. Trained
    weights have no such factors: there pruning alone (`ALPS`) is mostly nearer at the same bytes,
    and is returned, with a note. The zeros save bytes, not time.

    Args:
        compression_ratio: of this matrix alone in bytes, the indices included; at least 1.
        factors: how many, at least 2.
        share: of the bytes that goes to the square factors together, in (0, 1).
        iterations: of the alternation, at least 0.
        view: as which matrix a convolution's kernel is seen (see `Convolve`).

    Source: Le Magoarou & Gribonval, IEEE J. Sel. Topics Signal Process. 10(4), 2016, algorithm 2;
    Bolte, Sabach & Teboulle, Math. Program. 146, 2014 (PALM).
    """

    family: ClassVar[str] = "hybrid"
    norms: ClassVar = (Identity, Diagonal, Full)

    compression_ratio: float
    factors: int = 2
    share: float = 0.4
    iterations: int = 50
    view: KernelView = "channel"

    def __post_init__(self) -> None:
        check_ratio(self.compression_ratio)
        check_integer("factors", self.factors, least=2)
        check_number("share", self.share, "lie in (0, 1)", lambda x: 0 < x < 1)
        check_integer("iterations", self.iterations, least=0)
        check_one_of("view", self.view, KERNEL_VIEWS)

    def kernel_view(self) -> KernelView:
        return self.view

    def check_shape(self, weight: Tensor) -> None:
        self.counts_for(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        target = Target(weight, norm)
        counts = self.counts_for(weight)
        factors = target.start(counts)
        masks = self.alternate(target, factors, counts)
        factors[target.large] = target.unit * factors[target.large]
        pairs = zip(factors, masks, strict=True)
        leaves = [Sparse.from_dense(factor.to(weight.dtype), mask) for factor, mask in pairs]
        form = dense_unless_smaller(weight, Product(*leaves))
        return better_of(weight, norm, form, sparse_within(weight, norm, form.nbytes))

    def alternate(self, target: Target, factors: list[Tensor], counts: list[int]) -> list[Tensor]:
        """Improve the factors in place; returns their masks."""
        for _ in range(self.iterations):
            for place, count in enumerate(counts):
                moved = target.moved(factors, place)
                factors[place] = moved * largest_entries(moved, count)
        masks = [
            largest_entries(factor, count) for factor, count in zip(factors, counts, strict=True)
        ]
        for place, mask in enumerate(masks):
            slope = partial(masked, target.gradient(factors, place), mask)
            factors[place] = descend(slope, factors[place])
        return masks

    def counts_for(self, weight: Tensor) -> list[int]:
        """The number of entries of each factor of a weight (out, in), in the order of the product.

        Raises:
            Unfit: a square factor could not be an identity, or the large one has no entry.
        """
        out, inner = weight.shape
        side, (square, large) = min(out, inner), self._counts_at(self.compression_ratio, weight)

        def is_reachable(ratio: float) -> bool:
            square, large = self._counts_at(ratio, weight)
            return square >= side and large >= 1

        if not is_reachable(self.compression_ratio):
            each = self.share * stored_bytes(weight) / self.compression_ratio / (self.factors - 1)
            raise Unfit(
                f"compression_ratio={self.compression_ratio} is out of reach for {self.factors} "
                f"factors of a weight of shape ({out}, {inner}): {int(each)} bytes hold {square} "
                f"entries of a factor of {side} rows, which needs at least one each. Lower it, "
                "raise share, or leave this layer out with `where`.",
                at_reachable(self, self.compression_ratio, is_reachable),
            )
        squares = [square] * (self.factors - 1)
        return [large, *squares] if out > inner else [*squares, large]

    def _counts_at(self, ratio: float, weight: Tensor) -> tuple[int, int]:
        """The entries that a square factor and the large one can keep."""
        out, inner = weight.shape
        side, budget = min(out, inner), stored_bytes(weight) / ratio
        each = self.share * budget / (self.factors - 1)
        square = BlockGrid((side, side)).affordable(each, weight.itemsize)
        return square, BlockGrid((out, inner)).affordable(
            (1 - self.share) * budget, weight.itemsize
        )


class Target:
    """The weight that the product approximates, and the steps of its factors towards it.

    Attributes:
        unit: what the weight is divided by, so that no square overflows or vanishes.
        large: which factor is the large one, the first or the last.
    """

    def __init__(self, weight: Tensor, norm: Norm) -> None:
        matrix = weight.double()
        self.unit = matrix.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        self.weight = matrix / self.unit
        self.moment = norm.second_moment(weight)
        self.rows = norm.row_weights(weight).expand(len(weight))
        self.large = 0 if weight.shape[0] > weight.shape[1] else -1
        self.importance = norm.entry_weights(weight).sqrt()

    def start(self, counts: list[int]) -> list[Tensor]:
        """Identities, and the entries of the weight whose error alone counts most."""
        square = torch.eye(min(self.weight.shape)).to(self.weight)
        factors = [square.clone() for _ in counts]
        kept = largest_entries(self.weight * self.importance, counts[self.large])
        factors[self.large] = self.weight * kept
        return factors

    def moved(self, factors: list[Tensor], place: int) -> Tensor:
        """A factor after one gradient step."""
        left, right = self._around(factors, place)
        steepest = norm_of(left.T @ (self.rows[:, None] * left))
        steepest = steepest * norm_of(right @ self.moment @ right.T)
        if not float(steepest) > 0:
            return factors[place]
        return factors[place] - self.gradient(factors, place)(factors[place]) / (SHORTER * steepest)

    def gradient(self, factors: list[Tensor], place: int) -> Callable[[Tensor], Tensor]:
        """The gradient of half the squared error by a factor, as a function of it."""
        left, right = self._around(factors, place)
        weighted, pulled = left.T * self.rows, self.moment @ right.T

        def of(factor: Tensor) -> Tensor:
            return weighted @ ((left @ (factor @ right) - self.weight) @ pulled)

        return of

    def _around(self, factors: list[Tensor], place: int) -> tuple[Tensor, Tensor]:
        """The products of the factors before and after one."""
        out, inner = self.weight.shape
        left, right = torch.eye(out).to(self.weight), torch.eye(inner).to(self.weight)
        for factor in factors[:place]:
            left = left @ factor
        for factor in reversed(factors[place + 1 :]):
            right = factor @ right
        return left, right


def masked(gradient: Callable[[Tensor], Tensor], mask: Tensor, factor: Tensor) -> Tensor:
    """The gradient by the entries on the mask alone."""
    return gradient(factor) * mask


def norm_of(matrix: Tensor) -> Tensor:
    """The largest eigenvalue of a symmetric matrix without negative ones."""
    return torch.linalg.eigvalsh(matrix)[-1]
