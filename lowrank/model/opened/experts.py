"""Fused experts of mixture models: each matrix of each expert as a module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.approximation.weight_checks import DTYPES
from lowrank.model.host import Host, ReadWeight
from lowrank.model.opened.opener import Opener

# What `transformers.integrations.moe.use_experts_implementation` gives each module of experts.
PROTOCOL = {"has_gate", "has_bias", "has_post_expert_norm", "is_transposed", "is_concatenated"}


def weight_of(module: Any) -> Tensor:
    """The weight of a module."""
    return module.weight


class OpenExperts(Host):
    """Experts whose matrices are in modules, by the number of the expert.

    The fused implementations take all matrices of a kind in one tensor, which is put together in
    every pass: compression saves bytes, and no time.
    """

    _names: tuple[str, str]
    is_transposed: bool
    has_bias: bool
    has_gate: bool

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the class that it stands for; in calibration each expert is called on its tokens."""
        if self.calls_weights:
            self._call_weights(hidden_states, top_k_index)
        # The loop over experts reads a tensor once for each of them.
        self.__dict__["_stacked"] = {name: self._stack(name) for name in self._names}
        try:
            return super().forward(hidden_states, top_k_index, *args, **kwargs)
        finally:
            del self.__dict__["_stacked"]

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (type(self).__bases__[1],), vars(self).copy()  # No module has the class.

    def _call_weights(self, x: Tensor, chosen: Tensor) -> None:
        rise, fall = self._names
        for number, expert in self._experts():
            tokens = (chosen == number).any(dim=-1).nonzero()[:, 0]
            if not len(tokens):
                continue
            inner = expert[rise](x[tokens])
            if self.has_bias:
                inner = inner + getattr(self, f"{rise}_bias")[number]
            expert[fall](self._apply_gate(inner) if self.has_gate else self.act_fn(inner))

    def _experts(self) -> list[tuple[int, Any]]:
        count = sum(name.isdecimal() for name in self._modules)
        return [(number, self._modules[str(number)]) for number in range(count)]

    def _stack(self, name: str, read: Callable[[nn.Module], Tensor] = weight_of) -> Tensor:
        """All matrices of a kind, in the layout of the class that it stands for."""
        stacked = torch.stack([read(expert[name]) for _, expert in self._experts()])
        return stacked.mT if self.is_transposed else stacked

    def _weights(
        self, read: Callable[[nn.Module], Tensor]
    ) -> tuple[Collection[str], dict[str, Tensor]]:
        weights = {name: self._stack(name, read).contiguous() for name in self._names}
        return [str(number) for number, _ in self._experts()], weights

    @classmethod
    def _added(cls) -> frozenset[str]:
        return super()._added() | {"_names"}

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_names", ()):
            stacked = self.__dict__.get("_stacked", {})
            return stacked[name] if name in stacked else self._stack(name)
        return super().__getattr__(name)


class ExpertsOpener(Opener):
    """Modules of experts in one tensor (experts, out, in) of each kind, or (experts, in, out)."""

    def weights(self, module: nn.Module) -> tuple[str, ...]:
        if not vars(module).keys() >= PROTOCOL or isinstance(module, Host):
            return ()
        if "forward" in vars(module):
            return ()
        parts = [module._parameters.get(name) for name in names_of(module)]
        if not all(part is not None and part.ndim == 3 and part.dtype in DTYPES for part in parts):
            return ()
        assert parts[0] is not None
        return tuple(
            f"{number}.{name}" for number in range(len(parts[0])) for name in names_of(module)
        )

    def open(self, module: nn.Module) -> nn.Module:
        names = names_of(module)
        host: Any = _standing_for(type(module)).of(module, type(module).__name__, {})
        host.__dict__["_names"] = names
        parts: dict[str, Any] = {name: host._parameters.pop(name) for name in names}
        for number in range(len(parts[names[0]])):
            expert = nn.ModuleDict()
            for name, part in parts.items():
                matrix = part.detach()[number]
                matrix = matrix.T.contiguous() if host.is_transposed else matrix
                weight = nn.Parameter(matrix, part.requires_grad)
                expert[name] = ReadWeight(weight, type(module).__name__)
            host._modules[str(number)] = expert.train(module.training)
        return host


def expert_weights(model: nn.Module) -> dict[str, tuple[str, int, bool]]:
    """Of each weight of opened experts the fused tensor that it is a part of, its number there, and
    whether it lies transposed in it; by its name."""
    return {
        f"{path}.{number}.{name}.weight": (f"{path}.{name}", number, module.is_transposed)
        for path, module in model.named_modules()
        if isinstance(module, OpenExperts)
        for number, _ in module._experts()
        for name in module._names
    }


def names_of(module: Any) -> tuple[str, str]:
    """The names of the tensors that an expert multiplies by first and last."""
    return ("gate_up_proj" if module.has_gate else "up_proj"), "down_proj"


def _blank(kind: type[nn.Module]) -> nn.Module:
    cls = _standing_for(kind)
    return cls.__new__(cls)


@functools.cache
def _standing_for(kind: type[nn.Module]) -> type[OpenExperts]:
    """The class of hosts that run the code of `kind`."""
    return type(f"Open{kind.__name__}", (OpenExperts, kind), {})
