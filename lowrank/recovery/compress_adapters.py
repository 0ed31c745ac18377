"""Adapters at a smaller rank or in fewer bits, their bases as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lowrank.approximation.products import product_norm, truncated_product
from lowrank.decomposers import Decomposer
from lowrank.factorizations import Dense, Factorization, Product, Scaled
from lowrank.factorizations.adapted import Adapted, low_rank, taken_apart, together
from lowrank.model.factorized import FactorizedLayer
from lowrank.norms import IDENTITY, Norm
from lowrank.numerics.checks import check_integer, check_is


@dataclass(frozen=True)
class SmallerAdapter:
    """What an adapter became.

    Attributes:
        rank: the new one.
        error: ‖change of the adapter‖ / ‖adapter‖ in the norm; 0 if both are.
        nbytes, before: of its tensors, now and before.
    """

    rank: int
    error: float
    nbytes: int
    before: int


def compress_adapters(
    model: nn.Module,
    rank: int | None = None,
    decomposer: Decomposer | None = None,
    norms: Mapping[str, Norm] | None = None,
) -> dict[str, SmallerAdapter]:
    """Make the adapters of a model smaller, in place: at a smaller rank, in fewer bits, or both.

    The truncation to a rank is exact, by the singular value decomposition of the core between
    orthonormal bases of the factors, in (out + in) · r² operations: no matrix of the weight's size
    is made. A method is then applied to both factors, in the identity norm. What it makes of them,
    such as codes, may no longer be trained.

    Adapters of several terms, or of more than two factors, become one of two; where layers shared
    factors that can take more bytes.

    Args:
        rank: at least 1; adapters that have no more keep theirs.
        decomposer: of the factors, such as ``Quantization(8)``.
        norms: in which the error of an adapter counts, by layer; the identity norm for others.

    Returns:
        What the adapter of each layer became.

    Raises:
        ValueError: no layer has an adapter; neither a rank nor a method; norms of layers that have
            none, or that do not fit; from the method, by layer.
    """
    if rank is None and decomposer is None:
        raise ValueError("give a rank, a decomposer of the factors, or both")
    if rank is not None:
        check_integer("rank", rank, least=1)
    if decomposer is not None:
        check_is("decomposer", decomposer, Decomposer, "Quantization(8)")
    layers = _adapted(model)
    norms = _checked(norms or {}, layers)
    groups: dict[int, list[str]] = {}
    for name, layer in layers.items():
        groups.setdefault(id(layer.factorization), []).append(name)
    made: dict[str, tuple[Factorization, SmallerAdapter]] = {}
    for names in groups.values():
        form, given = layers[names[0]].factorization, [n for n in names if n in norms]
        if len(given) > 1:
            raise ValueError(f"the layers {given} share one adapter: give the norm of one of them")
        norm = norms[given[0]] if given else IDENTITY
        try:
            made |= dict.fromkeys(names, _smaller(form, rank, decomposer, norm))
        except ValueError as error:
            raise ValueError(f"layer '{names[0]}': {error}") from error
    for name, layer in layers.items():
        layer.factorization = made[name][0]
    return {name: made[name][1] for name in layers}


def _smaller(
    form: Factorization, rank: int | None, decomposer: Decomposer | None, norm: Norm
) -> tuple[Factorization, SmallerAdapter]:
    parts = taken_apart(form)
    term = low_rank(parts.terms)
    before = sum(one.nbytes for one in parts.terms)
    if decomposer is None and (rank or 0) >= term.rank:
        return form, SmallerAdapter(term.rank, 0.0, before, before)
    factors = left, right = [term.left.double(), term.right.double()]
    if rank is not None and rank < term.rank:
        factors = list(truncated_product(left, right, rank, norm)[:2])
    dense = [factor.to(term.left.dtype) for factor in factors]
    leaves = [decomposer.decompose(f) if decomposer else Dense(f) for f in dense]
    trains = any(p.requires_grad for one in parts.terms for p in one.parameters())
    adapter = Scaled(Product(*leaves), term.scale, term.dropout)
    own = [leaf.to_dense().detach().double() for leaf in leaves]
    change = product_norm(torch.cat([left, -own[0]], dim=1), torch.cat([right, own[1]]), norm)
    size = product_norm(left, right, norm)
    smaller = together(Adapted(parts.base, (adapter,), parts.lengths), form.notes)
    if not trains:
        smaller.requires_grad_(False)
    report = SmallerAdapter(
        rank=len(own[1]),
        error=change / size if size else change,
        nbytes=adapter.nbytes,
        before=before,
    )
    return smaller.train(form.training), report


def _adapted(model: nn.Module) -> dict[str, FactorizedLayer]:
    """The layers that have an adapter, by name."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, FactorizedLayer):
            try:
                taken_apart(layer.factorization)
            except ValueError:
                continue
            found[name] = layer
    if not found:
        raise ValueError("no layer of the model has an adapter, so there is none to compress")
    return found


def _checked(norms: Mapping[str, Norm], layers: Mapping[str, FactorizedLayer]) -> dict[str, Norm]:
    idle = sorted(norms.keys() - layers.keys())
    if idle:
        raise ValueError(f"norms of {idle}, but the layers with an adapter are {[*layers]}")
    for name, norm in norms.items():
        check_is(f"the norm of layer '{name}'", norm, Norm, "Diagonal(columns)")
        shape = layers[name].factorization.shape
        norm.check(torch.empty(shape, device="meta"))
    return dict(norms)
