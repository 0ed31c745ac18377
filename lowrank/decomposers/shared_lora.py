"""Shared-factor LoRA: one factor from the weight's singular vectors, the other trained per task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lowrank.approximation.low_rank import nearest_svd
from lowrank.decomposers.adapter import LowRankAdapter, frozen_dense, notes_of
from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Dense, Factorization, Product, Sum
from lowrank.norms import Norm
from lowrank.numerics.checks import check_flag, check_one_of

SIDES = ("left", "right")


@dataclass(frozen=True)
class SharedLoRA(LowRankAdapter):
    """W ≈ base + alpha/rank · left @ right, one factor frozen and the other trained from zero.

    The frozen factor holds the leading singular vectors, in the norm, of W: with ``side="left"``
    left is u (out, rank), and a task takes rank · in numbers; with ``right`` right is vᵀ
    (rank, in), and a task takes rank · out. All tasks of one base share it, so n tasks store
    rank · (out + n · in) numbers where separate LoRAs store n · rank · (out + in). With
    `compress_base` the base shares it too: W ≈ u @ (uᵀ W), so that base and task are
    u @ (S + alpha/rank · V), with u stored and multiplied once.

    Step 0 equals the base bit for bit, and the trained factor has a gradient there. The frozen one
    is orthonormal, without the singular values: a step of gradient descent on the trained factor is
    then the step on W, projected onto u, with alpha²/rank² times the learning rate. With u s it
    would be s² as long in each direction, and as ill-conditioned as W squared.

    Args:
        rank: 1 ≤ rank ≤ min(out, in).
        alpha: above 0; the adapter counts alpha/rank times.
        dropout: share of the trained part's inputs dropped in training, in [0, 1).
        base: the method of the frozen weight; W itself if not given.
        side: which factor is frozen, ``left`` or ``right``.
        compress_base: whether the base is of that rank, with the frozen factor; excludes `base`.

    Source: none; of the same kind are LoRA-FA (Zhang et al., 2023), whose frozen right factor is
    random, and LoRA-XS (Bałazy et al., 2024), with both factors frozen.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    base: Decomposer | None = None
    side: Literal["left", "right"] = "left"
    compress_base: bool = False

    def __post_init__(self) -> None:
        self.check_fields()
        check_one_of("side", self.side, SIDES)
        check_flag("compress_base", self.compress_base)
        if self.compress_base and self.base is not None:
            raise ValueError(
                f"compress_base=True makes the base of the shared factor, so base={self.base!r} "
                "would have no effect: leave out one of them"
            )

    def trained(self, shape: tuple[int, int]) -> int:
        out, inner = shape
        return self.rank * (inner if self.side == "left" else out)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        u, s, vh, notes = nearest_svd(weight, self.rank, norm)
        is_left = self.side == "left"
        factor = frozen_dense(u if is_left else vh, weight)
        rest = frozen_dense(s[:, None] * vh if is_left else u * s, weight)
        trained = Dense(weight.new_zeros(rest.shape))
        if self.compress_base:
            both = Sum(rest, self.scaled(trained))
            return Product(*(factor, both) if is_left else (both, factor), notes=notes)
        base = self.frozen(weight, norm)
        adapter = self.scaled(*(factor, trained) if is_left else (trained, factor))
        return Sum(base, adapter, notes=notes_of([base], *notes))
