"""A model that runs although only one of its blocks has numbers at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

from torch import nn

from lowrank.calibration.sequential import find_blocks, home, is_inside
from lowrank.export.streamed.source import CheckpointSource
from lowrank.model.factorized import FactorizedLayer

# A module, the name of a parameter, what it was and what it is.
Filled: TypeAlias = list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]]


class Residents:
    """The parameters that are in memory. A block gets them when it is called, and the one before
    gives its own back; what is called before the first block, such as embeddings, keeps them.

    Args:
        model: a copy of that of the source.
    """

    def __init__(self, model: nn.Module, source: CheckpointSource) -> None:
        self.model, self.source = model, source
        self.blocks = find_blocks(model)
        self.block = ""
        self.filled: Filled = []
        # Of modules outside of blocks that run, which may call blocks before they read their own.
        self.outside: dict[str, Filled] = {}
        for name in source.names:
            if not isinstance(source.tensor(name), nn.Parameter):
                path, _, own = name.rpartition(".")
                model.get_submodule(path)._buffers[own] = source.read(name)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Inside, modules that are called have their parameters."""
        handles = []
        for name, module in self.model.named_modules():
            if name in self.blocks:
                handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            elif home(name, self.blocks) == name:
                handles.append(module.register_forward_pre_hook(partial(self._outside, name)))
                handles.append(module.register_forward_hook(partial(self._leave, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._give_back()
            for name in [*self.outside]:
                self._leave(name)

    def _enter(self, name: str, block: nn.Module, args: Any) -> None:
        if "forward" in vars(block):  # It returns what is stored, and computes nothing any more.
            for layer in block.modules():
                if isinstance(layer, FactorizedLayer):
                    layer.to("meta")
            return
        if self.block != name:
            self._give_back()
            self.block = name
            for path, module in block.named_modules(prefix=name):
                self.filled += _fill(path, module, self.source)

    def _outside(self, name: str, module: nn.Module, args: Any) -> None:
        inside = {name: module}
        if not any(is_inside(block, name) for block in self.blocks):
            # Some read the parameters of modules that they do not call, as attention does.
            inside = dict(module.named_modules(prefix=name))
        for path, one in inside.items():
            filled = _fill(path, one, self.source)
            if self.block:
                self.outside.setdefault(name, []).extend(filled)

    def _leave(self, name: str, *_: Any) -> None:
        _empty(self.outside.pop(name, []))

    def _give_back(self) -> None:
        _empty(self.filled)
        self.filled, self.block = [], ""


def _fill(path: str, module: nn.Module, source: CheckpointSource) -> Filled:
    """Give a module its own parameters that have no numbers."""
    filled: Filled = []
    for name, blank in module._parameters.items():
        whole = f"{path}.{name}" if path else name
        if blank is not None and blank.is_meta and source.has(whole):
            own = nn.Parameter(source.read(whole), blank.requires_grad)
            filled.append((module, name, blank, own))
    for _, name, _, own in filled:
        module._parameters[name] = own
    return filled


def _empty(filled: Filled) -> None:
    for module, name, blank, own in filled:
        if module._parameters.get(name) is own:
            module._parameters[name] = blank
