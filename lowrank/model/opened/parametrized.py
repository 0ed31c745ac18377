"""Layers whose weight is made of other tensors, by a parametrization or a hook before a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lowrank.model.forward import evaluating
from lowrank.model.layers import rule_for
from lowrank.model.opened.opener import Opener


class ParametrizationOpener(Opener):
    """Layers with `torch.nn.utils.parametrize`, the older weight and spectral norms, and masks of
    `torch.nn.utils.prune`: opened, they have the weight that is made in evaluation."""

    def weights(self, module: nn.Module) -> tuple[str, ...]:
        if not is_parametrized(module) and not _hooks(module):
            return ()
        return ("",) if rule_for(self.open(module)) is not None else ()

    @torch.no_grad()
    def open(self, module: nn.Module) -> nn.Module:
        cls: Any = type(module)
        values: dict[str, Tensor] = {}
        parts = {part: getattr(module, part).copy() for part in ("_parameters", "_buffers")}
        inner, before = module._modules.copy(), module._forward_pre_hooks.copy()
        with evaluating(module):
            if is_parametrized(module):
                cls = cls.__bases__[0]
                made: Any = inner.pop("parametrizations")
                values = {name: getattr(module, name) for name in made}
            for key, hook in _hooks(module).items():
                name = _name(hook)
                values[name] = _made(hook, module)
                del before[key]
                for part in parts.values():
                    for suffix in ("_g", "_v", "_u", "_orig", "_mask"):
                        part.pop(f"{name}{suffix}", None)
        plain = cls.__new__(cls)
        own = {name: value for name, value in vars(module).items() if name not in values}
        plain.__dict__.update(own | parts | {"_modules": inner, "_forward_pre_hooks": before})
        for table in ("_state_dict_hooks", "_load_state_dict_pre_hooks"):
            plain.__dict__[table] = {
                key: hook
                for key, hook in vars(module)[table].items()
                if not isinstance(getattr(_unbound(hook), "fn", None), SpectralNorm)
            }
        trained = any(parameter.requires_grad for parameter in module.parameters())
        for name, value in values.items():
            plain._parameters[name] = nn.Parameter(value.detach().clone(), requires_grad=trained)
        return plain

    def note(self, module: nn.Module) -> tuple[str, ...]:
        makers = [type(one).__name__.lstrip("_") for one in _hooks(module).values()]
        if is_parametrized(module):
            made: Any = module.parametrizations
            makers += [type(one).__name__.lstrip("_") for parts in made.values() for one in parts]
        return (f"decomposed is the weight that {', '.join(makers)} makes, which is gone",)


def _hooks(module: nn.Module) -> dict[int, Any]:
    """The hooks of a module that make a weight before a call."""
    kinds = (WeightNorm, SpectralNorm, BasePruningMethod)
    return {key: hook for key, hook in module._forward_pre_hooks.items() if isinstance(hook, kinds)}


def _name(hook: Any) -> str:
    return hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name


def _made(hook: Any, module: nn.Module) -> Tensor:
    if isinstance(hook, BasePruningMethod):
        return hook.apply_mask(module)
    if isinstance(hook, SpectralNorm):
        return hook.compute_weight(module, do_power_iteration=False)
    return hook.compute_weight(module)


def _unbound(hook: Any) -> Any:
    """A hook without the wrapper that PyTorch puts around it."""
    return getattr(hook, "hook", hook)
