"""The interface of openers, which give each weight of a module a module of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from lowrank.approximation.weight_checks import DTYPES


class Opener(ABC):
    """Opens one kind of module, whose weights are not parameters that a rule could replace."""

    @abstractmethod
    def weights(self, module: nn.Module) -> tuple[str, ...]:
        """The paths of its weights inside the opened module; none if it does not know the module,
        and ``""`` for the module itself."""

    @abstractmethod
    def open(self, module: nn.Module) -> nn.Module:
        """A module of the same outputs, its weights at these paths; `module` is not changed."""

    def note(self, module: nn.Module) -> tuple[str, ...]:
        """Notes for the reports of its weights."""
        del module
        return ()


def is_of(module: nn.Module, known: type[nn.Module]) -> bool:
    """Whether a module runs the code of a class, with tensors of dtypes that methods know."""
    code = ("__call__", "forward", "get_extra_state", "set_extra_state")
    return (
        isinstance(module, known)
        and all(getattr(type(module), name) is getattr(known, name) for name in code)
        and "forward" not in vars(module)
        and all(p.dtype in DTYPES for p in module.parameters(recurse=False))
    )
