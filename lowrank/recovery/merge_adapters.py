"""Merging of trained adapters into their base weights, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lowrank.decomposers import merge
from lowrank.factorizations import Dense, Factorization, adapters
from lowrank.model.factorized import FactorizedLayer


def merge_adapters(model: nn.Module) -> dict[str, Factorization]:
    """Replace every factorization that holds an adapter by one dense matrix, in place.

    The outputs stay the same up to the rounding of the sum, and the layer runs as fast as a dense
    one. A pruned or quantized base becomes dense and takes the bytes of a dense weight. Layers that
    share a factorization share the merged one.

    Returns:
        The factorizations that were replaced, by the names of the merged layers; with them
        `unmerge_adapters` takes the merge back.

    Raises:
        ValueError: no layer holds an adapter.
    """
    merged: dict[int, Dense] = {}
    replaced: dict[str, Factorization] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, FactorizedLayer):
            continue
        form = layer.factorization
        if id(form) not in merged and adapters(form):
            merged[id(form)] = merge(form).train(form.training)
        if id(form) in merged:
            replaced[name] = form
            layer.factorization = merged[id(form)]
    if not replaced:
        raise ValueError("no layer of the model holds an adapter, so there is nothing to merge")
    return replaced


def unmerge_adapters(model: nn.Module, replaced: Mapping[str, Factorization]) -> None:
    """Take a merge of a model back, in place: its layers are what they were, bit for bit, on the
    device and in the dtype in which the model is by now.

    Args:
        replaced: what `merge_adapters` gave for this model.

    Raises:
        ValueError: the model has no such layer, or one that holds no merged matrix.
    """
    layers: dict[str, Any] = dict(model.named_modules())
    for name, form in replaced.items():
        layer = layers.get(name)
        there = layer.factorization if isinstance(layer, FactorizedLayer) else None
        if not isinstance(there, Dense) or there.shape != form.shape:
            raise ValueError(f"the model has no merged layer {name!r} of shape {form.shape}")
    for name, form in replaced.items():
        merged = layers[name].factorization
        weight = merged.weight
        # A form of its own dtype is not cast, for parts of it may be in another.
        back = form.to(weight.device) if weight.dtype == form.dtype else form.to(weight)
        layers[name].factorization = back.train(merged.training)
