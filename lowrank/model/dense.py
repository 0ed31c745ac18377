"""The dense model that a compressed one stands in for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lowrank.factorizations import Factorization
from lowrank.model.copying import copied
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.host import Host
from lowrank.model.save_guard import allow_other_files
from lowrank.model.sites import HOOKS, Places

# Of a factorized layer, for its own use.
OWN = frozenset({"factorization", "view", "kind", "training"})


@torch.no_grad()
def dense_model(model: nn.Module) -> nn.Module:
    """A model without factorizations, their matrices multiplied out, in the modules of the dense
    model: the same classes of PyTorch and names of tensors.

    A subclass that computes the same as its class becomes that class. Layers that share a
    factorization share the weight. A parametrized layer has the weight that was decomposed.

    Args:
        model: compressed or not; it is not changed, and shares its other tensors with the result.
    """
    return with_plain_layers(model, lambda _, layer, weights: layer.plain(weights.of(layer)))


def plain_layer(layer: FactorizedLayer, weight: nn.Parameter) -> nn.Module:
    """The layer of the dense model with a weight in its layout, in the mode of `layer`, with its
    hooks and what others set on it."""
    return _as_before(layer, layer.plain(weight))


@torch.no_grad()
def with_plain_layers(
    model: nn.Module, made: Callable[[str, FactorizedLayer, DenseWeights], nn.Module]
) -> nn.Module:
    """A copy of a model, on the same other tensors, with other modules in the place of its layers.

    Args:
        made: gives the module for a layer, of its name.
    """
    new = copied(model, [*model.parameters(), *model.buffers()]).model
    weights, places = DenseWeights(), Places(new)
    names = {module: name for name, module in new.named_modules()}
    hosts = [module for module in new.modules() if isinstance(module, Host)]
    for host in hosts:
        places.replace(host, _with_hooks(host, host.closed(weights.read)))
    # From the inside out, since an attention layer has linear layers in it.
    layers = [module for module in places.model.modules() if isinstance(module, FactorizedLayer)]
    for layer in reversed(layers):
        places.replace(layer, _as_before(layer, made(names[layer], layer, weights)))
    allow_other_files(places.model)
    return places.model


class DenseWeights:
    """The dense weights of factorizations, each made once."""

    def __init__(self) -> None:
        self._made: dict[Factorization, list[nn.Parameter]] = {}

    def read(self, module: nn.Module) -> Tensor:
        """The weight of a layer or of what it was made from."""
        return self.of(module) if isinstance(module, FactorizedLayer) else module.weight  # type: ignore[return-value]

    def of(self, layer: FactorizedLayer) -> nn.Parameter:
        """The weight in the layout of the layer that was replaced."""
        return self.made(layer.factorization, layer.as_weight)

    def made(self, form: Factorization, layout: Callable[[Tensor], Tensor]) -> nn.Parameter:
        """What a layout makes of the matrix of a factorization; equal ones of it are one."""
        made = self._made.setdefault(form, [])
        value = layout(form.to_dense().detach())
        for other in made:
            if other.shape == value.shape and torch.equal(other, value):
                return other
        made.append(nn.Parameter(value.clone(memory_format=torch.contiguous_format)))
        return made[-1]


def _as_before(layer: FactorizedLayer, plain: nn.Module) -> nn.Module:
    """A module for a layer, with all that others set on that."""
    others = {k: v for k, v in vars(layer).items() if k not in OWN and not k.startswith("_")}
    vars(plain).update((k, v) for k, v in others.items() if not hasattr(plain, k))
    return _with_hooks(layer, plain)


def _with_hooks(old: nn.Module, new: nn.Module) -> nn.Module:
    new.train(old.training)
    for name in HOOKS:
        setattr(new, name, getattr(old, name))
    return new
