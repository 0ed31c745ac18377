"""Where the weights of layers are in the dense model."""

from __future__ import annotations

from torch import nn

from lowrank.model.factorized import FactorizedLayer
from lowrank.model.host import Host


def is_fused(model: nn.Module, name: str) -> bool:
    """Whether a layer stands for a part of what the module around it reads."""
    paths = [name.rpartition(".")[0]]
    while paths[-1]:
        paths.append(paths[-1].rpartition(".")[0])
    return any(isinstance(model.get_submodule(path), Host) for path in paths)


def weight_name(model: nn.Module, name: str) -> str:
    """The name of the weight in the layer that was replaced."""
    layer = model.get_submodule(name)
    assert isinstance(layer, FactorizedLayer)
    return layer.weight_name
