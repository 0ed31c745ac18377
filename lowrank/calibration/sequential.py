"""Calibration block by block: each on the outputs of the already compressed blocks before it.

The model runs as it is, so that masks, positions and whatever else it hands to its blocks are its
own; but the blocks before the one that is calibrated do not compute: each returns what it returned
for this batch when it had just been compressed. A pass ends with the block. So every block runs
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
from lowrank.model.sites import Site
from lowrank.numerics.memo import MEMO


@dataclass(frozen=True)
class Unit:
    """What is calibrated and compressed at a time.

    Attributes:
        name: of the block, or of a layer that is in none.
        sites: the weights first used there.
        calls: how often it is called in a forward pass.
        is_whole: whether all uses of its weights are inside.
    """

    name: str
    sites: tuple[Site, ...]
    calls: int
    is_whole: bool


class Finished(Exception):
    """The forward pass has gone as far as it is needed."""


def calibrate_in_sequence(
    model: nn.Module, sites: Sequence[Site], data: CalibrationData, full: bool
) -> Iterator[tuple[Unit, dict[str, Statistics]]]:
    """Units in the order in which the model runs them, each with its statistics.

    Whoever consumes this replaces the weights of a unit in `model` before asking for the next.
    Outputs of finished units are kept on disk, in a temporary folder, so that memory holds the
    statistics of one unit and the activations of one batch.

    Args:
        model: the copy that is being compressed.
        sites: of a model of the same structure; one that no example reaches is in no unit.

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
    """Runs a model whose finished units return what they returned before.

    Args:
        folder: where their outputs are kept.
    """

    def __init__(self, model: nn.Module, data: CalibrationData, folder: Path) -> None:
        self.model = model
        self.data = data
        self.folder = folder
        self.finished: list[Unit] = []

    def run(self, last: Unit | None, piece: Piece, number: int) -> None:
        """One forward pass, up to the end of `last` if that is given; in the mode it is in.

        Args:
            number: of the piece, from 0.
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
        """Keep what `unit`, compressed by now, returns for each batch."""
        # Entered once: it makes the module forget matrices that were multiplied out.
        with evaluating(self.model), torch.no_grad(), unfused_attention():
            for number, piece in enumerate(self.data.pieces(self.model, alone=True)):
                outputs: list[Any] = []
                keep = lambda module, args, output, outputs=outputs: outputs.append(output)  # noqa: E731
                # Before hooks of the model's own, which act on what is replayed too.
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
    """The outputs of a unit in a file, which is read when the first is asked for.

    Raises:
        ValueError: more are asked for than there are.
    """
    outputs = torch.load(file, weights_only=False)
    while outputs:
        yield outputs.pop(0)  # Not held here while the blocks that follow run.
    raise Refused(
        f"block '{name}' runs more often for some batches than for the first, by which the "
        "sequence is planned: use mode='one-shot'"
    )


def find_units(model: nn.Module, sites: Sequence[Site], data: CalibrationData) -> list[Unit]:
    """The blocks of a model that hold sites, and its other sites, in the order of their calls."""
    blocks = find_blocks(model)
    candidates = {site.name: [home(use.name, blocks) for use in site.uses] for site in sites}
    calls = count_calls(model, {name for names in candidates.values() for name in names}, data)
    # Of modules that share a weight, some may only hold it for others.
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
    """The names of the children of the outermost lists of modules."""
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    outermost = [n for n in lists if not any(n != o and is_inside(n, o) for o in lists)]
    return {
        f"{name}.{child}".lstrip(".")
        for name in outermost
        for child, _ in model.get_submodule(name).named_children()
    }


def is_inside(name: str, outer: str) -> bool:
    """Whether the module of one name lies within that of the other."""
    return not outer or name.startswith(f"{outer}.")


def home(name: str, blocks: set[str]) -> str:
    """The block in which a module lies, or the module itself."""
    return next((block for block in blocks if name == block or is_inside(name, block)), name)


def count_calls(model: nn.Module, names: set[str], data: CalibrationData) -> dict[str, int]:
    """How often each module is called for the first examples that reach it, in the order of calls.

    Examples run until all modules were reached; one that none reaches is not among them.
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
    """Inside, calling the module computes nothing and returns the next of `outputs`."""
    own = dict(module.__dict__)  # Where wrappers put a `forward` of the instance.
    module.forward = lambda *_, **__: next(outputs)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if "forward" in own:
            module.forward = own["forward"]


@contextmanager
def stopping(module: nn.Module, calls: int) -> Iterator[None]:
    """Inside, the last of so many calls of the module raises `Finished` when it is done."""
    left = calls

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Finished

    # Behind all other hooks, which still see the output.
    handle = module.register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()
