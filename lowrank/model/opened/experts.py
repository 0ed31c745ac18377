"""Fused experts of mixture models: each matrix of each expert as a module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowrank.approximation.weight_checks import DTYPES
from lowrank.model.host import Host
from lowrank.model.opened.opener import Opener
from lowrank.model.opened.stacked import StackedHost, opened

# What `transformers.integrations.moe.use_experts_implementation` gives each module of experts.
PROTOCOL = {"has_gate", "has_bias", "has_post_expert_norm", "is_transposed", "is_concatenated"}


class OpenExperts(StackedHost):
    """Experts whose matrices are in modules, by the number of the expert."""

    has_bias: bool
    has_gate: bool

    def _call_weights(self, x: Tensor, chosen: Tensor, *_: Any, **__: Any) -> None:
        rise, fall = self._names
        for number, (first, second) in enumerate(
            zip(self._each(rise), self._each(fall), strict=True)
        ):
            tokens = (chosen == number).any(dim=-1).nonzero()[:, 0]
            if not len(tokens):
                continue
            inner = first(x[tokens])
            if self.has_bias:
                inner = inner + getattr(self, f"{rise}_bias")[number]
            second(self._apply_gate(inner) if self.has_gate else self.act_fn(inner))


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
        return opened(OpenExperts, module, names_of(module))


def names_of(module: Any) -> tuple[str, str]:
    """The names of the tensors that an expert multiplies by first and last."""
    return ("gate_up_proj" if module.has_gate else "up_proj"), "down_proj"
