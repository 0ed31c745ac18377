"""The weights of a dense and of a compressed model, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lowrank.model.factorized import FactorizedLayer
from lowrank.model.opened import open_weights
from lowrank.model.sites import Site, find_sites


def pairs(dense: nn.Module, compressed: nn.Module) -> Iterator[tuple[Site, Tensor, Tensor]]:
    """The weights of the dense model in its order, each with that which stands in its place, both
    in the module's own layout.

    Raises:
        ValueError: the compressed model lacks a layer of the dense one.
    """
    layers = {n for n, m in compressed.named_modules() if isinstance(m, FactorizedLayer)}
    for site in find_sites(open_weights(dense, layers).model):
        use = site.uses[0]
        try:
            other = getattr(compressed.get_submodule(use.name), use.rule.parameter)
        except AttributeError as error:
            raise ValueError(
                f"the compressed model has no layer {use.name}: give the model that was compressed"
            ) from error
        with torch.no_grad():
            yield site, site.weight.detach(), torch.as_tensor(other).detach()


def matrices(
    dense: nn.Module, compressed: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of both models by layer, each as a matrix (out, in).

    Raises:
        ValueError: as `pairs`.
    """
    found: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
    for site, *both in pairs(dense, compressed):
        use = site.uses[0]
        for own, weight in zip(found, both, strict=True):
            own[site.name] = use.rule.as_matrix(use.module, weight, "channel")
    return found
