"""Hosts of matrices that lie in one tensor of three axes, one after the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.host import Host, ReadWeight


def weight_of(module: Any) -> Tensor:
    """The weight of a module."""
    return module.weight


class StackedHost(Host):
    """A module whose matrices are in modules, by their number.

    Its own code takes all matrices of a kind in one tensor, which is put together in every pass:
    compression saves bytes, and no time.

    Attributes:
        is_transposed: whether the tensor has them as (in, out).
    """

    _names: tuple[str, ...]
    is_transposed: bool = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the class that it stands for; in calibration each matrix is called on its inputs."""
        if self.calls_weights:
            self._call_weights(*args, **kwargs)
        # The loop over matrices reads a tensor once for each of them.
        self.__dict__["_stacked"] = {name: self._stack(name) for name in self._names}
        try:
            return super().forward(*args, **kwargs)
        finally:
            del self.__dict__["_stacked"]

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, type(self).__bases__, vars(self).copy()  # No module has the class.

    def _call_weights(self, *args: Any, **kwargs: Any) -> None:
        """Call each matrix with what it multiplies."""
        raise NotImplementedError

    @staticmethod
    def _grouped(matrices: dict[str, nn.Module]) -> nn.Module:
        """The module of a number, which holds its matrices by their kind."""
        return nn.ModuleDict(matrices)

    def _place(self, number: str, name: str) -> str:
        """The name of the module of a matrix of a kind."""
        return f"{number}.{name}"

    def _each(self, name: str) -> list[Any]:
        """The modules of the matrices of a kind."""
        return [self.get_submodule(self._place(number, name)) for number in self._numbers()]

    def _numbers(self) -> list[str]:
        count = sum(name.isdecimal() for name in self._modules)
        return [str(number) for number in range(count)]

    def _stack(self, name: str, read: Callable[[nn.Module], Tensor] = weight_of) -> Tensor:
        """All matrices of a kind, in the layout of the class that it stands for."""
        stacked = torch.stack([read(module) for module in self._each(name)])
        return stacked.mT if self.is_transposed else stacked

    def _weights(
        self, read: Callable[[nn.Module], Tensor]
    ) -> tuple[Collection[str], dict[str, Tensor]]:
        weights = {name: self._stack(name, read).contiguous() for name in self._names}
        return self._numbers(), weights

    @classmethod
    def _added(cls) -> frozenset[str]:
        return super()._added() | {"_names"}

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_names", ()):
            stacked = self.__dict__.get("_stacked", {})
            return stacked[name] if name in stacked else self._stack(name)
        return super().__getattr__(name)


def opened(base: type[StackedHost], module: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """The host of a class that takes the place of a module, whose matrices lie in the tensors of
    these names.
    """
    kind = type(module)
    host: Any = standing_for(base, kind).of(module, kind.__name__, {})
    host.__dict__["_names"] = names
    stacks: dict[str, Any] = {name: host._parameters.pop(name) for name in names}
    for number in range(len(stacks[names[0]])):
        matrices: dict[str, nn.Module] = {}
        for name, stack in stacks.items():
            matrix = stack.detach()[number]
            matrix = matrix.T.contiguous() if host.is_transposed else matrix
            matrices[name] = ReadWeight(nn.Parameter(matrix, stack.requires_grad), kind.__name__)
        host._modules[str(number)] = base._grouped(matrices).train(module.training)
    return host


def stacked_weights(model: nn.Module) -> dict[str, tuple[str, int, bool]]:
    """Of each weight of opened stacks the tensor that it is a part of, its number there, and
    whether it lies transposed in it; by its name."""
    return {
        f"{path}.{module._place(number, name)}.weight".lstrip("."): (
            f"{path}.{name}".lstrip("."),
            int(number),
            module.is_transposed,
        )
        for path, module in model.named_modules()
        if isinstance(module, StackedHost)
        for number in module._numbers()
        for name in module._names
    }


def _blank(base: type[StackedHost], kind: type[nn.Module]) -> nn.Module:
    cls = standing_for(base, kind)
    return cls.__new__(cls)


@functools.cache
def standing_for(base: type[StackedHost], kind: type[nn.Module]) -> Any:
    """The class of hosts that run the code of `kind`."""
    return type(f"Open{kind.__name__}", (base, kind), {})
