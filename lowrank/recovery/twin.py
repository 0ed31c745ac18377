"""The dense twin of a compressed model, which is compressed again while training goes on."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lowrank.compression.report import Compressed
from lowrank.model.copying import copied
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.sites import Site, find_sites


class Twin:
    """A dense model with the layers of a compressed one.

    Args:
        model: the dense model; its numbers are changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._sites = {site.name: site for site in find_sites(model)}

    @classmethod
    def of(cls, compressed: Compressed) -> Twin:
        """A copy of the dense model that was compressed."""
        return cls(copied(compressed.dense).model)

    def weights(self, compressed: Compressed) -> list[nn.Parameter]:
        """The parameters that stand where `compressed` has factorizations, in their order."""
        return [self._sites[layer.name].weight for layer in compressed.layers]

    @torch.no_grad()
    def images(self, compressed: Compressed) -> list[Tensor]:
        """What the factorizations equal, in the layouts of `weights`."""
        return [_image(self._sites[layer.name], compressed) for layer in compressed.layers]

    @torch.no_grad()
    def take(self, compressed: Compressed) -> None:
        """Give the dense model the numbers of a compressed one: the matrices of its factorizations,
        and all other parameters and buffers."""
        own = self.model.state_dict()
        for name, tensor in compressed.model.state_dict().items():
            if name in own and own[name].shape == tensor.shape:
                own[name].copy_(tensor)
        for weight, image in zip(self.weights(compressed), self.images(compressed), strict=True):
            weight.copy_(image)


def _image(site: Site, compressed: Compressed) -> Tensor:
    layer = cast(FactorizedLayer, compressed.model.get_submodule(site.name))
    use = site.uses[0]
    return use.rule.as_weight(use.module, layer.factorization.to_dense(), layer.view).detach()
