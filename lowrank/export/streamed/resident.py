"""A model that runs although only one of its blocks has numbers at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from lowrank.calibration.sequential import find_blocks, home
from lowrank.export.streamed.source import CheckpointSource
from lowrank.model.factorized import FactorizedLayer


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
        self.filled: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
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
            elif home(name, self.blocks) == name and list(module.parameters(recurse=False)):
                handles.append(module.register_forward_pre_hook(partial(self._outside, name)))
                handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._give_back()

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
        filled = _fill(name, module, self.source)
        if self.block:
            self.filled += filled

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        mine = [one for one in self.filled if one[0] is module]
        self.filled = [one for one in self.filled if one[0] is not module]
        _empty(mine)

    def _give_back(self) -> None:
        _empty(self.filled)
        self.filled, self.block = [], ""


def _fill(
    path: str, module: nn.Module, source: CheckpointSource
) -> list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]]:
    """Give a module its own parameters that have no numbers.

    Returns:
        The module, the name of each, what it was and what it is.
    """
    filled = []
    for name, blank in module._parameters.items():
        whole = f"{path}.{name}" if path else name
        if blank is not None and blank.is_meta and source.has(whole):
            own = nn.Parameter(source.read(whole), blank.requires_grad)
            filled.append((module, name, blank, own))
    for _, name, _, own in filled:
        module._parameters[name] = own
    return filled


def _empty(filled: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]]) -> None:
    for module, name, blank, own in filled:
        if module._parameters.get(name) is own:
            module._parameters[name] = blank
