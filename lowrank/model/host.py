"""Modules whose code reads weights, and what shows their inputs in calibration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReadWeight(nn.Module):
    """A weight (out, in) that the code of the module around it reads.

    Attributes:
        host: the class name of that module, such as LSTM.
    """

    def __init__(self, weight: nn.Parameter, host: str) -> None:
        super().__init__()
        self.weight, self.host = weight, host

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ for x of shape (…, in); called in calibration only, with what it multiplies."""
        return F.linear(x, self.weight)


class Host(nn.Module):
    """A module that reads its weights from modules inside of it, by their former names.

    A class of hosts also inherits from the class that it stands for, and takes over its state.

    Attributes:
        calls_weights: whether a run also calls each weight with the vectors that it multiplies, so
            that hooks see them; see `calling`.
    """

    calls_weights = False
    _held: Mapping[str, str]

    @classmethod
    def of(cls, module: nn.Module, kind: str, names: Mapping[str, str]) -> Host:
        """The host that stands for a module, on the same tensors.

        Args:
            kind: the class name of the module, for reports.
            names: of each parameter that is a weight, the name of its module inside the host.
        """
        host = cls.__new__(cls)
        own = {name: value for name, value in vars(module).items() if name not in cls._left_out()}
        host.__dict__.update(own | {"_held": dict(names)})
        host.__dict__["_parameters"] = {
            name: value for name, value in module._parameters.items() if name not in names
        }
        inside = {
            inner: ReadWeight(module.get_parameter(name), kind) for name, inner in names.items()
        }
        for weight in inside.values():
            weight.train(module.training)
        host.__dict__["_modules"] = {**module._modules, **inside}
        return host

    @classmethod
    def _left_out(cls) -> frozenset[str]:
        """Attributes of the module that the host does not take over."""
        return frozenset()

    def closed(self, read: Callable[[nn.Module], Tensor]) -> nn.Module:
        """The module that it stands for.

        Args:
            read: gives the weight of a module inside.
        """
        known = next(cls for cls in type(self).__mro__ if not issubclass(cls, Host))
        module: nn.Module = known.__new__(known)  # type: ignore[call-issue]
        module.__dict__.update({n: v for n, v in vars(self).items() if n not in self._added()})
        inside, weights = self._weights(read)
        module.__dict__["_modules"] = {
            name: part for name, part in self._modules.items() if name not in inside
        }
        module.__dict__["_parameters"] = {
            name: value if isinstance(value, nn.Parameter) else nn.Parameter(value)
            for name, value in weights.items()
        } | self._parameters
        return module

    def _weights(
        self, read: Callable[[nn.Module], Tensor]
    ) -> tuple[Collection[str], dict[str, Tensor]]:
        """The names of the modules that hold its weights, and the weights by their former names."""
        found = {name: read(self.get_submodule(inner)) for name, inner in self._held.items()}
        return self._held.values(), found

    @classmethod
    def _added(cls) -> frozenset[str]:
        """Attributes that the module that it stands for does not have."""
        return frozenset({"_held"})

    def __getattr__(self, name: str) -> Any:
        held = self.__dict__.get("_held", {})
        if name in held:
            return self._modules[held[name]].weight  # type: ignore[union-attr]
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__.get("_held", {})
        if name in held:
            setattr(self._modules[held[name]], "weight", value)  # noqa: B010
        else:  # Without what the class that it stands for does to keep lists of its parameters.
            nn.Module.__setattr__(self, name, value)


@contextmanager
def calling(model: nn.Module) -> Iterator[None]:
    """Inside, the hosts of a model also call their weights with the vectors that they multiply,
    and PyTorch's attention the projection of its outputs."""
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, Host):
                module.__dict__["calls_weights"] = True
                stack.callback(module.__dict__.pop, "calls_weights")
            if isinstance(module, nn.MultiheadAttention) and (
                isinstance(module, Host) or type(module).forward is nn.MultiheadAttention.forward
            ):
                hook = module.register_forward_hook(_call_projection, with_kwargs=True)
                stack.callback(hook.remove)
        yield


def _call_projection(
    attention: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any
) -> None:
    """Call the projection of the outputs with what it multiplies.

    That is what the same attention gives with the identity as its projection.
    """
    same = torch.eye(attention.embed_dim, dtype=outputs[0].dtype, device=outputs[0].device)
    double = nn.MultiheadAttention.__new__(type(attention))
    inside = {**attention._modules, "out_proj": SimpleNamespace(weight=same, bias=None)}
    vars(double).update(vars(attention) | {"_modules": inside})
    attention.out_proj(nn.MultiheadAttention.forward(double, *args, **kwargs)[0])
