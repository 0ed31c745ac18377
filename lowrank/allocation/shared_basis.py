"""Basis sharing: one right factor, stored once, for several layers with the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeGuard

import torch
from torch import Tensor

from lowrank.allocation.allocation import Allocation, Plan, Problem
from lowrank.approximation.low_rank import nearest, spectrum
from lowrank.decomposers import Decomposer, TruncatedSVD
from lowrank.factorizations import Dense, Factorization, Product
from lowrank.model.select import as_name
from lowrank.model.sites import Site
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import check_ratio
from lowrank.numerics.factors import fitted
from lowrank.numerics.marginal_gains import by_marginal_gain

OTHER_INPUTS = "its inputs are others than those that the shared basis was made for"


@dataclass(frozen=True)
class SharedBasis(Allocation):
    """W_i ≈ left_i @ right for the layers of a group, `right` one tensor that all of them use.

    The weights of a group are stacked and decomposed once, in the norm of their inputs: of all
    bases of that rank the nearest. A group of n layers (out, in) takes rank · (n · out + in)
    numbers where truncated SVDs take rank · n · (out + in), so for square layers the rank can be
    2n / (n + 1) times as large. Where truncated SVDs of the same size, the ranks divided among them
    by singular values per number, lose less together, the group gets those, with a note.

    Weights of rows choose no basis: its layers count alike.

    Args:
        groups: of names, such as [["query", "key", "value"]]: layers under one parent whose last
            names are in one of them belong together.
        compression_ratio: of each group, and of each layer without one, which gets a truncated SVD;
            at least 1.

    Raises:
        ValueError: no lists of names, or a name in two groups; from `compress`, none of the layers
            is in a group, or a group of layers of different input sizes, or whose rank 1 misses
            the ratio.

    Source: Wang et al., Basis Sharing, ICLR 2025 (there across blocks).
    """

    norms: ClassVar = (Identity, Diagonal, Full)

    groups: Sequence[Sequence[str]]
    compression_ratio: float

    def __post_init__(self) -> None:
        check_ratio(self.compression_ratio)
        object.__setattr__(self, "groups", as_groups(self.groups))
        names = [name for group in self.groups for name in group]
        if len(set(names)) < len(names):
            raise ValueError(f"groups={self.groups} name a layer twice")

    @property
    def family(self) -> str:
        return "low rank"

    def check_shapes(self, problem: Problem) -> None:
        for sites in self._groups(problem):
            Basis(sites, self.compression_ratio)

    def allocate(self, problem: Problem) -> Plan:
        alone = TruncatedSVD(compression_ratio=self.compression_ratio, view="channel")
        plan: dict[str, Decomposer] = {site.name: alone for site in problem.sites}
        for sites in self._groups(problem):
            basis = Basis(sites, self.compression_ratio)
            plan |= {site.name: Member(basis, place) for place, site in enumerate(sites)}
        return Plan(plan)

    def _groups(self, problem: Problem) -> list[list[Site]]:
        """The weights that share a basis.

        Raises:
            ValueError: none do.
        """
        found: dict[tuple[str, int], list[Site]] = {}
        for site in problem.sites:
            parent, _, last = site.name.rpartition(".")
            for number, names in enumerate(self.groups):
                if last in names:
                    found.setdefault((parent, number), []).append(site)
        groups = [sites for sites in found.values() if len(sites) > 1]
        if not groups:
            raise ValueError(
                f"groups={self.groups} join none of the selected layers, which are "
                f"{[site.name for site in problem.sites]}"
            )
        return groups


def as_groups(groups: object) -> tuple[tuple[str, ...], ...]:
    """Groups of names; see `as_name`.

    Raises:
        ValueError: something else, or none.
    """
    if not is_list(groups) or not groups or not all(map(is_list, groups)):
        raise ValueError(
            f"groups={groups!r:.200} must be a list of lists of names, such as "
            "[['query', 'key', 'value']]"
        )
    return tuple(tuple(as_name("groups", name) for name in names) for names in groups)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a sequence, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


class Basis:
    """The shared basis of a group, made when its first layer is decomposed, in its norm."""

    def __init__(self, sites: Sequence[Site], compression_ratio: float) -> None:
        self.names = [site.name for site in sites]
        self.weights = [site.matrix() for site in sites]
        widths = {name: w.shape[1] for name, w in zip(self.names, self.weights, strict=True)}
        if len(set(widths.values())) > 1:
            raise ValueError(f"layers of different input sizes share no basis: {widths}")
        total = sum(weight.numel() for weight in self.weights)
        per_rank = sum(len(weight) for weight in self.weights) + self.weights[0].shape[1]
        self.rank = int(total / compression_ratio / per_rank)
        self.params = self.rank * per_rank
        if self.rank < 1:
            raise ValueError(
                f"compression_ratio={compression_ratio} is out of reach for {self.names}: rank 1 "
                f"gives {total / per_rank:.3g}"
            )
        self.right: Dense | None = None
        self.ranks: list[int] = []
        self.moment = torch.empty(0)

    def __repr__(self) -> str:
        return f"Basis(rank={self.rank}, of={self.names})"

    def prepare(self, moment: Tensor) -> None:
        """Choose the basis, or the ranks where none pays, in the norm of these inputs."""
        if self.moment.numel():
            return
        self.moment, norm = moment, Full(moment)
        stacked = torch.cat(self.weights)
        energies = [spectrum(weight, norm).square() for weight in self.weights]
        ranks, kept = divided(energies, [sum(w.shape) for w in self.weights], self.params)
        together = spectrum(stacked, norm).square()[: self.rank].sum()
        if kept > float(together):
            self.ranks = ranks
            return
        right = nearest(stacked, self.rank, norm).right
        self.right = Dense(right.to(stacked.dtype))


@dataclass(frozen=True)
class Member(Decomposer):
    """A layer of a group: its left factor is the best one for the shared basis.

    Args:
        basis: of the group.
        place: of the layer in it.
    """

    norms: ClassVar = (Identity, Diagonal, Full)

    basis: Basis = field(compare=False)
    place: int

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        moment = norm.second_moment(weight)
        self.basis.prepare(moment)
        notes = () if torch.equal(self.basis.moment, moment) else (OTHER_INPUTS,)
        others = [name for name in self.basis.names if name != self.basis.names[self.place]]
        if self.basis.right is None:
            notes += (f"a basis shared with {', '.join(others)} does not pay here",)
            rank = self.basis.ranks[self.place]
            left, right, found = nearest(weight, rank, norm)
            return Product(Dense(left), Dense(right), notes=notes + found)
        notes += (f"shares its right factor with {', '.join(others)}, counted once",)
        right = self.basis.right.weight.detach()
        left = fitted(weight.double(), moment, right.double())
        return Product(Dense(left.to(weight.dtype)), self.basis.right, notes=notes)


def divided(
    energies: Sequence[Tensor], prices: Sequence[int], params: int
) -> tuple[list[int], float]:
    """Ranks of several matrices within a number of parameters, at least 1 each, and their energy.

    Args:
        energies: squared singular values of each, descending.
        prices: numbers that a rank of each costs.
    """
    if sum(prices) > params:
        return [1] * len(energies), -1.0
    costs = [[price] * len(own) for own, price in zip(energies, prices, strict=True)]
    ranks = by_marginal_gain([own.tolist() for own in energies], costs, params, least=1)
    return ranks, sum(float(e[:rank].sum()) for e, rank in zip(energies, ranks, strict=True))
