"""DoRA: an adapter for the directions of the rows of a weight, and their lengths trained apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from lowrank.decomposers.adapter import Adapter
from lowrank.decomposers.decomposer import Decomposer, nearest_of
from lowrank.factorizations import Factorization, NormalizedRows
from lowrank.factorizations.operations import KernelView
from lowrank.norms import Norm
from lowrank.numerics.checks import check_is


@dataclass(frozen=True)
class DoRA(Adapter):
    """W ≈ diag(m) · V, the rows of V those of an adapted weight scaled to length 1; m is trained.

    Any adapter can be the one of the directions: a LoRA, as in the paper, or VeRA (its DVoRA). m,
    (out,), starts as the lengths of the rows, so that step 0 equals the adapter's bit for bit. The
    lengths by which rows are divided count as constants in the gradient, as in section 4.3 of the
    paper. Every call multiplies the adapted weight out to know them, which makes training slower
    than without; merged it costs nothing. A row of zeros, such as one that the base has pruned
    whole, has no direction and stays zero: a note says how many there are.

    Args:
        adapter: of the directions, such as LoRA(rank=4, alpha=8).

    Raises:
        ValueError: it is no adapter, or one with lengths of its own.

    Source: Liu et al., ICML 2024 (DoRA), equations 5 and 11.
    """

    adapter: Adapter

    def __post_init__(self) -> None:
        check_is("adapter", self.adapter, Adapter, "LoRA(rank=4, alpha=8)")
        if isinstance(self.adapter, DoRA):
            raise ValueError("adapter is a DoRA, which trains the lengths of the rows already")

    @property
    def rank(self) -> int:
        """Of the adapter."""
        return self.adapter.rank

    def at_rank(self, rank: int) -> Self:
        return replace(self, adapter=self.adapter.at_rank(rank))

    def trained(self, shape: tuple[int, int]) -> int:
        return self.adapter.trained(shape) + shape[0]

    @property
    def follows_directions(self) -> bool:
        return self.adapter.follows_directions

    def without(self) -> Decomposer | None:
        return self.adapter.without()

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        self.adapter.check_norms(types)

    def kernel_view(self) -> KernelView:
        return self.adapter.kernel_view()

    def for_kernel(self, size: tuple[int, int]) -> Decomposer:
        return replace(self, adapter=self.adapter.for_kernel(size))

    def check_shape(self, weight: Tensor) -> None:
        with nearest_of(lambda adapter: replace(self, adapter=adapter)):
            self.adapter.check_shape(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        adapted = self.adapter.decompose(weight, norm)
        form = NormalizedRows.of(adapted)
        form.notes = (*adapted.notes, *_untrained(form.lengths))
        return form


def _untrained(lengths: Tensor) -> list[str]:
    """A note about rows of zeros: without a direction, nothing of them gets a gradient."""
    zeros, rows = int((lengths == 0).sum()), len(lengths)
    return [f"{zeros} of {rows} rows are zero and stay so: DoRA trains none"] if zeros else []
