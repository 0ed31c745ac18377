"""Sequential calibration: each block runs on the outputs of the compressed blocks before it.

The whole model is called, so its blocks get its own masks, positions and other arguments. The
blocks before the calibrated one do not compute: each returns its stored outputs, which were
computed right after its compression. A pass ends after the calibrated block. So every block runs
twice, dense and compressed, whatever the number of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank.calibration.collect import collect
from lowrank.calibration.data import CalibrationData
from lowrank.calibration.piece import Piece, Refused, running
from lowrank.calibration.statistics import Statistics
from lowrank.files import scratch
from lowrank.model.forward import evaluating, unfused_attention
from lowrank.model.host import Host
from lowrank.model.sites import Site
from lowrank.numerics.memo import MEMO


@dataclass(frozen=True)
class Unit:
    """The part of a model that is calibrated and compressed in one step: a block or a layer.

    Attributes:
        name: of the block, or of a layer outside of all blocks.
        sites: the weights whose first use is inside.
        calls: the number of its calls in a forward pass.
        is_whole: whether all uses of its weights are inside.
    """

    name: str
    sites: tuple[Site, ...]
    calls: int
    is_whole: bool


class Finished(Exception):
    """The end of the part of a forward pass that is needed."""


def calibrate_in_sequence(
    model: nn.Module, sites: Sequence[Site], data: CalibrationData, full: bool
) -> Iterator[tuple[Unit, dict[str, Statistics]]]:
    """The units in the order in which the model runs them, each with its statistics.

    The caller must replace the weights of a unit in `model` before it takes the next. Outputs of
    finished units are kept in a temporary folder on disk, so memory holds the statistics of one
    unit and the activations of one batch.

    Args:
        model: the copy that is being compressed.
        sites: those of a model of the same structure; a site that no example reaches is in no unit.

    Raises:
        ValueError: the model has no blocks in an `nn.ModuleList` or `nn.Sequential`.
    """
    units = find_units(model, sites, data)
    with scratch.folder() as folder:
        replay = Replay(model, data, folder)
        for number, unit in enumerate(units, start=1):
            names = [use.name for site in unit.sites for use in site.uses]
            with MEMO.passing():
                run = partial(replay.run, unit if unit.is_whole else None)
                yield unit, collect(model, names, data, full, run)
            if number < len(units):
                replay.finish(unit)


class Replay:
    """Runs of a model whose finished units return their stored outputs.

    Args:
        folder: the folder of the stored outputs.
    """

    def __init__(self, model: nn.Module, data: CalibrationData, folder: Path) -> None:
        self.model = model
        self.data = data
        self.folder = folder
        self.finished: list[Unit] = []

    def run(self, last: Unit | None, piece: Piece, number: int) -> None:
        """Run one forward pass in the model's present mode, up to the end of the unit `last` if
        that is given.

        Args:
            number: the number of the piece, from 0.
        """
        with ExitStack() as stack:
            for index, unit in enumerate(self.finished):
                outputs = kept(self._file(index, number), unit.name)
                stack.enter_context(returning(self.model.get_submodule(unit.name), outputs))
            if last is not None:
                stack.enter_context(stopping(self.model.get_submodule(last.name), last.calls))
            try:
                self.data.forward(self.model, piece.batch)
            except Finished:
                pass

    def finish(self, unit: Unit) -> None:
        """Store the outputs of the compressed `unit` for each piece."""
        # Entered once, since entering makes the module drop matrices that it multiplied out.
        with evaluating(self.model), torch.no_grad(), unfused_attention():
            for number, piece in enumerate(self.data.pieces(self.model, alone=True)):
                outputs: list[Any] = []
                keep = lambda module, args, output, outputs=outputs: outputs.append(output)  # noqa: E731
                # Before the model's own hooks, which act on replayed outputs too.
                module = self.model.get_submodule(unit.name)
                handle = module.register_forward_hook(keep, prepend=True)
                try:
                    with running(piece, self.model):
                        self.run(unit, piece, number)
                finally:
                    handle.remove()
                torch.save(outputs, self._file(len(self.finished), number))
        self.finished.append(unit)

    def _file(self, unit: int, number: int) -> Path:
        return self.folder / f"{unit}-{number}.pt"


def kept(file: Path, name: str) -> Iterator[Any]:
    """The stored outputs of a unit, one by one; the file is read when the first is taken.

    Raises:
        ValueError: more are taken than are stored.
    """
    outputs = torch.load(file, weights_only=False)
    while outputs:
        yield outputs.pop(0)  # Popped, so that none is held while the following blocks run.
    raise Refused(
        f"block '{name}' runs more often for some batches than for the first, in which its "
        "calls were counted: use mode='one-shot'"
    )


def find_units(model: nn.Module, sites: Sequence[Site], data: CalibrationData) -> list[Unit]:
    """The units of a model in the order of their calls: blocks that hold sites, and sites outside
    of blocks.
    """
    blocks = find_blocks(model)
    candidates = {site.name: [home(use.name, blocks) for use in site.uses] for site in sites}
    calls = count_calls(model, {name for names in candidates.values() for name in names}, data)
    # Some modules that share a weight may never be called and only hold it for others.
    called = {site: [n for n in names if n in calls] for site, names in candidates.items()}
    homes = {site: names[0] for site, names in called.items() if names}
    if not homes:
        return []
    if not blocks & set(homes.values()):
        raise ValueError(
            "mode='sequential' needs selected layers in blocks, the children of an nn.ModuleList "
            f"or nn.Sequential; {type(model).__name__} has none. Use mode='one-shot'"
        )
    units = []
    for name, count in calls.items():
        own = tuple(site for site in sites if homes.get(site.name) == name)
        if not own:
            continue
        uses = [use.name for site in own for use in site.uses]
        is_whole = all(use == name or use.startswith(f"{name}.") for use in uses)
        units.append(Unit(name, own, count, is_whole))
    return units


def find_blocks(model: nn.Module) -> set[str]:
    """The names of the blocks: the children of the outermost lists of modules, and other hosts."""
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    outermost = [n for n in lists if not any(n != o and is_inside(n, o) for o in lists)]
    blocks = {
        f"{name}.{child}".lstrip(".")
        for name in outermost
        for child, _ in model.get_submodule(name).named_children()
    }
    # The weights of a host are not called one after the other.
    hosts = {name for name, module in model.named_modules() if isinstance(module, Host)}
    return blocks | {host for host in hosts if home(host, blocks) == host}


def is_inside(name: str, outer: str) -> bool:
    """Whether the module `name` is the module `outer` or lies inside of it."""
    return not outer or name.startswith(f"{outer}.")


def home(name: str, blocks: set[str]) -> str:
    """The name of the block in which a module lies, or else of the module itself."""
    return next((block for block in blocks if name == block or is_inside(name, block)), name)


def count_calls(model: nn.Module, names: set[str], data: CalibrationData) -> dict[str, int]:
    """The number of calls of each module for the first examples that reach it, in the order of
    calls.

    Examples run until all modules were reached; a module that no example reaches is left out.
    """
    calls: dict[str, int] = {}
    order: list[str] = []
    for piece in data.pieces(model, alone=True):
        found = _calls_of(model, names, data, piece)
        before = 0
        for name in found:
            if name not in calls:
                order.insert(before, name)
            before = order.index(name) + 1
        calls = found | calls
        if len(calls) == len(names):
            break
    return {name: calls[name] for name in order}


def _calls_of(
    model: nn.Module, names: set[str], data: CalibrationData, piece: Piece
) -> dict[str, int]:
    calls: dict[str, int] = {}

    def count(name: str, module: nn.Module, args: Any) -> None:
        calls[name] = calls.get(name, 0) + 1

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(unfused_attention())
        for name in names:
            hook = model.get_submodule(name).register_forward_pre_hook(partial(count, name))
            stack.callback(hook.remove)
        with running(piece, model):
            data.forward(model, piece.batch)
    return calls


@contextmanager
def returning(module: nn.Module, outputs: Iterator[Any]) -> Iterator[None]:
    """Inside, a call of the module computes nothing and returns the next of `outputs`."""
    own = dict(module.__dict__)  # Wrappers set `forward` on the instance too.
    module.forward = lambda *_, **__: next(outputs)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if "forward" in own:
            module.forward = own["forward"]


@contextmanager
def stopping(module: nn.Module, calls: int) -> Iterator[None]:
    """Inside, the last of `calls` calls of the module raises `Finished` when it is done."""
    left = calls

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Finished

    # Last of all hooks, so that the others still see the output.
    handle = module.register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()
