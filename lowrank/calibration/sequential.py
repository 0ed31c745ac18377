"""Sequential calibration: each block runs on the outputs of the compressed blocks before it.

The whole model is called, so its blocks get its own masks, positions and other arguments. The
blocks before the calibrated one do not compute: each returns its stored outputs, which were
computed right after its compression. A pass ends after the calibrated block. So every block runs
twice, dense and compressed, whatever the number of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank.calibration.collect import collect
from lowrank.calibration.data import CalibrationData
from lowrank.calibration.piece import Piece, running
from lowrank.calibration.replay import Replay, Unit
from lowrank.calibration.statistics import Statistics
from lowrank.files import scratch
from lowrank.model.forward import evaluating, unfused_attention
from lowrank.model.host import Host
from lowrank.model.sites import Site
from lowrank.numerics.memo import MEMO


def calibrate_in_sequence(
    model: nn.Module,
    sites: Sequence[Site],
    data: CalibrationData,
    full: bool,
    folder: Path | None = None,
) -> Iterator[tuple[Unit, dict[str, Statistics]]]:
    """The units in the order in which the model runs them, each with its statistics.

    The caller must replace the weights of a unit in `model` before it takes the next. Outputs of
    finished units are kept on disk, so memory holds the statistics of one unit and the activations
    of one batch.

    Args:
        model: the copy that is being compressed.
        sites: those of a model of the same structure; a site that no example reaches is in no unit.
        folder: where outputs are kept, and stay; units whose outputs are there are passed over. A
            temporary one if not given.

    Raises:
        ValueError: the model has no blocks in an `nn.ModuleList` or `nn.Sequential`.
    """
    units = find_units(model, sites, data)
    with scratch.folder() if folder is None else nullcontext(folder) as place:
        replay = Replay(model, data, place, is_own=folder is None)
        for number, unit in enumerate(units, start=1):
            if number < len(units) and replay.is_there(unit):
                replay.finished.append(unit)
                continue
            names = [use.name for site in unit.sites for use in site.uses]
            with MEMO.passing():
                run = partial(replay.run, unit if unit.is_whole else None)
                yield unit, collect(model, names, data, full, run)
            if number < len(units):
                replay.finish(unit)


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
    # This run goes to the end, to outputs that may be large.
    for piece in data.singly().pieces(model, alone=True):
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
