"""VeRA: trained scales between random factors that all layers share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from lowrank.decomposers.adapter import AdapterOverBase, frozen_dense
from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Factorization, Product, Scaled, ScaledRows, Sum
from lowrank.norms import Norm
from lowrank.numerics.checks import check_integer, check_positive


@dataclass(frozen=True)
class VeRA(AdapterOverBase):
    """W ≈ base + diag(b) · left · diag(d) · right, where only b (out,) and d (rank,) are trained.

    left and right are random, frozen, and drawn from the seed and the layer's sides alone: layers
    of equal out have one left factor, and layers of equal in one right factor. A compressed model
    holds and stores each once. Of a matrix drawn for more rows, or columns, a smaller one is the
    first, up to the scale of right. One task takes out + rank numbers of a layer, with a rank that
    can be far above LoRA's. Does not pay for a single task: the random factors are stored too.

    b starts at zero, so that step 0 equals the base bit for bit, and d at `start`. The learning
    rate of the paper is about ten times LoRA's.

    Args:
        rank: at least 1; may be above the sides of a layer.
        start: above 0, of every entry of d.
        dropout: share of the adapter's inputs dropped in training, in [0, 1).
        base: the method of the frozen weight; W itself if not given.
        seed: of the random factors.

    Source: Kopiczko, Blankevoort & Asano, ICLR 2024, equation 2; both factors Kaiming-uniform.
    """

    rank: int
    start: float = 0.1
    dropout: float = 0.0
    base: Decomposer | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_fields()
        check_positive("start", self.start)
        check_integer("seed", self.seed)

    def check_shape(self, weight: Tensor) -> None:
        self.check_base(weight)

    def trained(self, shape: tuple[int, int]) -> int:
        return shape[0] + self.rank

    @property
    def follows_directions(self) -> bool:
        return False

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        out, inner = weight.shape
        base = self.frozen(weight, norm)
        # Kaiming's bound for a matrix of n columns is √(6/n).
        left = (6 / self.rank) ** 0.5 * self._drawn("left", out)
        right = (6 / inner) ** 0.5 * self._drawn("right", inner).T
        adapter = Product(
            ScaledRows(frozen_dense(left.to(weight), weight), weight.new_zeros(out)),
            ScaledRows(
                frozen_dense(right.to(weight), weight), weight.new_full((self.rank,), self.start)
            ),
        )
        return Sum(base, Scaled(adapter, 1.0, self.dropout), notes=base.notes)

    def _drawn(self, side: str, rows: int) -> Tensor:
        """Uniform in ±1, (rows, rank), float64; of more rows, the same ones first."""
        mixed = xxhash.xxh3_64_intdigest(f"{self.seed} {side}".encode())
        generator = torch.Generator().manual_seed(mixed)
        return 2 * torch.rand(rows, self.rank, generator=generator, dtype=torch.float64) - 1
