"""Checks of points before any point is run."""

from __future__ import annotations

import functools
import json
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import nn

from experiments.parts import Parts, Settings, export_format, make, make_parts, shared_task
from lowrank.compression.compress import as_allocation
from lowrank.compression.compress import check as check_compression
from lowrank.compression.kernel_cache import kernel_cache
from lowrank.files.extras import need
from lowrank.measure.harness import check_tasks
from lowrank.point.dense import text, with_seed
from lowrank.point.point import SEED_LIMIT, check_labels
from lowrank.point.room import check_room

VALUES = ("float16", "bfloat16")


class Remembered:
    """A function that is called once for the same texts, whether it returns or raises: data that
    are not there are not looked for again for each of many points."""

    def __init__(self, function: Callable[..., Any], size: int) -> None:
        self.function = function
        self.outcome = functools.lru_cache(maxsize=size)(self._outcome)

    def __call__(self, *arguments: Any) -> Any:
        value, error, frames = self.outcome(*arguments)
        if error is not None:
            # Each time it is raised it would get more frames.
            raise error.with_traceback(frames)
        return value

    def _outcome(self, *arguments: Any) -> tuple[Any, Exception | None, TracebackType | None]:
        try:
            return self.function(*arguments), None, None
        except Exception as error:
            one: BaseException | None = error
            while one is not None:
                # Traceback frames would keep large objects alive.
                traceback.clear_frames(one.__traceback__)
                one = one.__cause__ or one.__context__
            return None, error, error.__traceback__


def remembering(size: int) -> Callable[[Callable[..., Any]], Remembered]:
    """Remember the outcomes of the last `size` different calls."""
    return functools.partial(Remembered, size=size)


def check_options(settings: Settings) -> None:
    """Check the options that no part of a point checks.

    Raises:
        ValueError: one of them cannot be; the text names it.
    """
    seed, threads = settings["seed"], settings["threads"]
    if type(seed) is not int or not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed={seed} must be a whole number from 0 to {SEED_LIMIT - 1}")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ValueError(f"threads={threads} must be a whole number from 1, or null")
    if type(settings["force"]) is not bool:
        raise ValueError(f"force={settings['force']} must be true or false")
    values, device = settings["values"], settings["device"]
    if values is not None and values not in VALUES:
        raise ValueError(f"values={values} must be one of {', '.join(VALUES)}, or null")
    if not isinstance(device, str):
        raise ValueError(f"device={device} must be a text, such as cpu or cuda:0")
    _check_device(device)
    export = export_format(settings)
    if export is not None:
        need(f"save.format={export.name}", *export.libraries)
    make(settings["tracker"])
    if not isinstance(settings["kernel_cache"], Mapping):
        raise ValueError(
            f"kernel_cache={settings['kernel_cache']} has no effect: give kernel_cache.folder=…"
        )
    with kernel_cache(**settings["kernel_cache"]):
        pass  # It can be made and written.


def _check_labels(settings: Settings, parts: Parts) -> None:
    check_labels(as_allocation(parts.method), type(parts.method).__name__)
    for name in ("method_name", "norm_name", "recovery_name"):
        if not isinstance(settings[name], str) or not settings[name].strip():
            raise ValueError(f"{name}={settings[name]!r} must be a text that is not empty")


@remembering(16)
def _check_device(device: Any) -> None:
    try:
        # Some devices, such as meta, hold shapes and no numbers.
        torch.ones(1, device=device).item()
    # For a missing device, torch raises any error of its backend.
    except Exception as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device={device} cannot be used here; there are: {', '.join(there)}. Torch says: "
            f"{str(error).splitlines()[0]}"
        ) from error


def check_fit(settings: Settings) -> None:
    """Check that a point's method, its choice of layers and its recovery fit the network,
    untrained, and that none of its settings has no effect.

    Raises:
        ValueError: they do not.
    """
    parts = make_parts(settings)
    # After the parts, whose own errors say more about a wrong value that became a label.
    _check_labels(settings, parts)
    network = untrained(_any_seed(settings["task"]))
    check_compression(network, parts.method, parts.where, parts.norm, values=settings["values"])
    parts.recovery.check(network)
    measure = parts.measure.of(parts.task)
    if not measure.latency_batch_sizes and measure.threads != settings["threads"]:
        raise ValueError(
            f"measure.threads={measure.threads} has no effect without measure.latency_batch_sizes: "
            "give threads=… for all that is computed"
        )
    if settings["values"] is not None and _is_half(network):
        raise ValueError(
            f"values={settings['values']} has no effect: the weights of task "
            f"{parts.task.name!r} have 16 bits themselves. Leave it out, or give task.dtype=float32"
        )


def check_data(settings: Settings, processes: int) -> None:
    """Check that a point's data are there and are enough for it, and that the memory is.

    Args:
        processes: how many points run at once.

    Raises:
        ValueError: they are not.
    """
    task = _any_seed(settings["task"])
    _check_task(task)
    _check_recovery(task, text(settings["recovery"]))
    _check_measure(task, text(settings["measure"]), processes)


def forget() -> None:
    """Give back the memory of what was only made to be checked."""
    untrained.outcome.cache_clear()


def _any_seed(task: Settings) -> str:
    """The configuration of a task (JSON) with 0 for its seeds: of many points few differ in more.

    A point of that seed finds its data read already.
    """
    return text(with_seed(task, 0))


@remembering(4)
def untrained(config: str) -> nn.Module:
    """The network of a task's configuration (JSON), without its weights."""
    return make(json.loads(config)).network()


@remembering(1024)
def _check_task(task: str) -> None:
    shared_task(task).check()


@remembering(1024)
def _check_recovery(task: str, recovery: str) -> None:
    make(json.loads(recovery)).check_data(shared_task(task))


@remembering(1024)
def _check_measure(task: str, measure: str, processes: int) -> None:
    of = shared_task(task)
    settings = make(json.loads(measure)).of(of)
    if settings.harness_tasks:
        check_tasks(settings.harness_tasks)
    settings.check_data(of)
    network = untrained(task).to(of.device)
    # The dense and the compressed model will be there; this network will not.
    check_room(network, of, settings, copies=1, processes=processes)


def _is_half(network: nn.Module) -> bool:
    sizes = [p.element_size() for p in network.parameters() if p.is_floating_point()]
    return bool(sizes) and max(sizes) <= 2
