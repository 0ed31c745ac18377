"""Merging of trained adapters into their base weights."""

from __future__ import annotations

from torch import nn

from lowrank.decomposers import merge
from lowrank.factorizations import Dense, adapters
from lowrank.model.factorized import FactorizedLayer


def merge_adapters(model: nn.Module) -> list[str]:
    """Replace every factorization that holds an adapter by one dense matrix, in place.

    The outputs stay the same up to the rounding of the sum, and the layer runs as fast as a dense
    one. A pruned or quantized base becomes dense and takes the bytes of a dense weight. Layers that
    share a factorization share the merged one.

    Returns:
        The names of the merged layers.

    Raises:
        ValueError: no layer holds an adapter.
    """
    merged: dict[int, Dense] = {}
    names = []
    for name, layer in model.named_modules():
        if not isinstance(layer, FactorizedLayer):
            continue
        form = layer.factorization
        if id(form) not in merged and adapters(form):
            merged[id(form)] = merge(form).train(form.training)
        if id(form) in merged:
            names.append(name)
            layer.factorization = merged[id(form)]
    if not names:
        raise ValueError("no layer of the model holds an adapter, so there is nothing to merge")
    return names
