"""The tensors of one adapted layer in a folder, by the type of the adapter.

An `AdapterLayout` knows one type: which tensors there are, and the term that they make. A new type
is a line in `LAYOUTS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from lowrank.export.peft.given_config import GivenConfig
from lowrank.export.peft.kinds import (
    DIAGONAL_KINDS,
    KINDS,
    LENGTHS,
    READ_KINDS,
    DiagonalKind,
    Kind,
)
from lowrank.export.peft.target import HostLayer
from lowrank.export.peft.vera import INNER, LEFT, OUTER, RIGHT
from lowrank.factorizations import Dense, Factorization, Product, Scaled, ScaledRows

Shape = tuple[int, ...]
Leaves = Callable[..., Dense]
Tensors = Mapping[str, Tensor]


class AdapterLayout(ABC):
    """The tensors of one type of adapter.

    Attributes:
        kinds: of layers, by the words of `KINDS`.
        ends: of the names of those of one layer.
    """

    kinds: Mapping[str, Kind]
    ends: Collection[str]

    @abstractmethod
    def shapes(self, config: GivenConfig, target: HostLayer) -> dict[str, Shape]:
        """What a layer needs, by the ends of the names.

        Raises:
            ValueError: a rank that the layer cannot have.
        """

    def shared(self, config: GivenConfig, targets: Collection[HostLayer]) -> dict[str, Shape]:
        """What all layers share, by name."""
        del config, targets
        return {}

    @abstractmethod
    def term(
        self,
        config: GivenConfig,
        target: HostLayer,
        tensors: Tensors,
        leaf: Leaves,
    ) -> Factorization | None:
        """What is added to the base of one layer; None if that is nothing.

        Args:
            tensors: of the layer, and of all.
            leaf: makes a leaf of a matrix; given a key, one for all layers that ask with it.

        Raises:
            ValueError: the tensors make none.
        """


class LoraLayout(AdapterLayout):
    """scale · left @ right."""

    kinds = READ_KINDS
    ends = tuple(dict.fromkeys(end for kind in KINDS.values() for end in (kind.down, kind.up)))

    def shapes(self, config: GivenConfig, target: HostLayer) -> dict[str, Shape]:
        (out, inner), kind = target.shape, target.kind(self.kinds)
        counted, times = config.rank_of(target.owner), kind.times(target.module)
        rank, rest = divmod(counted, times)
        if rest:
            raise ValueError(f"its {times} groups do not divide the rank {counted}")
        if rank > min(out, inner):
            raise ValueError(
                f"it has an adapter of rank {rank}, above the sides of its weight, {out} × {inner}"
            )
        left = torch.empty(out, rank, device="meta")
        right = torch.empty(rank, inner, device="meta")
        tensors = kind.tensors(target.module, left, right)
        if config.has_lengths:
            around = READ_KINDS["attention"] if target.is_inside else kind
            refused = around.lengths_refusal(target.module)
            if refused:
                raise ValueError(f"PEFT's DoRA computes something else: {refused}")
            tensors[LENGTHS] = kind.lengths(target.module, torch.empty(out, device="meta"))
        return {end: tuple(tensor.shape) for end, tensor in tensors.items()}

    def term(
        self,
        config: GivenConfig,
        target: HostLayer,
        tensors: Tensors,
        leaf: Leaves,
    ) -> Factorization:
        factors = target.kind(self.kinds).factors(target.module, tensors)
        product = Product(*(leaf(matrix) for matrix in factors))
        return Scaled(product, config.scale_of(target.owner) * target.times, config.dropout)


class AdaloraLayout(LoraLayout):
    """scale · left · diag(middle) · right, of no rank where all was taken out."""

    kinds = DIAGONAL_KINDS
    ends = (DiagonalKind.down, DiagonalKind.up, DiagonalKind.middle)

    def term(
        self,
        config: GivenConfig,
        target: HostLayer,
        tensors: Tensors,
        leaf: Leaves,
    ) -> Factorization | None:
        if config.rank_of(target.owner) == 0:
            return None
        left, right = map(leaf, target.kind(self.kinds).factors(target.module, tensors))
        middle = tensors[DiagonalKind.middle].flatten().to(right.weight)
        product = Product(left, ScaledRows(right, middle))
        return Scaled(product, config.scale_of(target.owner), config.dropout)


class VeraLayout(AdapterLayout):
    """diag(b) · left · diag(d) · right, left and right the first parts of what all share."""

    kinds = {"linear": KINDS["linear"]}
    ends = (OUTER, INNER)

    def shapes(self, config: GivenConfig, target: HostLayer) -> dict[str, Shape]:
        target.kind(self.kinds)
        return {OUTER: (target.shape[0],), INNER: (config.rank,)}

    def shared(self, config: GivenConfig, targets: Collection[HostLayer]) -> dict[str, Shape]:
        out, inner = (max(target.shape[side] for target in targets) for side in range(2))
        return {RIGHT: (config.rank, inner), LEFT: (out, config.rank)}

    def term(
        self,
        config: GivenConfig,
        target: HostLayer,
        tensors: Tensors,
        leaf: Leaves,
    ) -> Factorization:
        out, inner = target.shape
        left = leaf(tensors[LEFT][:out], key=(LEFT, out)).requires_grad_(False)
        right = leaf(tensors[RIGHT][:, :inner], key=(RIGHT, inner)).requires_grad_(False)
        outer, own = (tensors[end].to(left.weight) for end in (OUTER, INNER))
        product = Product(ScaledRows(left, outer), ScaledRows(right, own))
        return Scaled(product, 1.0, config.dropout)


LAYOUTS: dict[str, AdapterLayout] = {
    "LORA": LoraLayout(),
    "VERA": VeraLayout(),
    "ADALORA": AdaloraLayout(),
}
