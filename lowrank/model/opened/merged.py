"""Layers whose factorization is one dense matrix, as merging adapters leaves them."""

from __future__ import annotations

import torch
from torch import nn

from lowrank.factorizations import Dense
from lowrank.model.dense import plain_layer
from lowrank.model.factorized import FactorizedLayer, FactorizedRead
from lowrank.model.host import ReadWeight
from lowrank.model.opened.opener import Opener


class MergedOpener(Opener):
    """Layers that hold a matrix and no other form: opened, they are the layers of PyTorch that they
    stand in for, on that matrix."""

    def weights(self, module: nn.Module) -> tuple[str, ...]:
        is_merged = isinstance(module, FactorizedLayer) and type(module.factorization) is Dense
        return ("",) if is_merged else ()

    @torch.no_grad()
    def open(self, module: nn.Module) -> nn.Module:
        assert isinstance(module, FactorizedLayer) and isinstance(module.factorization, Dense)
        own = module.factorization.weight
        laid_out, weight = module.as_weight(own), own
        if laid_out is not own:
            weight = nn.Parameter(laid_out.detach(), own.requires_grad)
        if isinstance(module, FactorizedRead):
            # The module around it reads it, and goes on doing so.
            host = vars(module).get("host", type(module).__name__)
            return ReadWeight(weight, host).train(module.training)
        return plain_layer(module, weight)
