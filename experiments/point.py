"""One point of a sweep: a task's model compressed by one method and measured against itself."""

from __future__ import annotations

import copy
import functools
import json
import random
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from threadpoolctl import threadpool_limits
from torch import nn

from experiments.composer import resolve
from experiments.progress import Progress
from experiments.trackers import log_point
from lowrank import results
from lowrank.allocation import Allocation
from lowrank.calibration import Norms
from lowrank.compress import compress
from lowrank.environment import environment
from lowrank.measure import Measured, MeasureSettings, compare, measure
from lowrank.recovery import Recovery
from lowrank.select import Select
from lowrank.tasks import Task

# What numpy, the narrowest of the generators, takes as seeds.
SEEDS = 2**32

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Parts:
    """What a point is made of, as the library's objects."""

    task: Task
    allocation: Allocation
    where: Select
    norm: Norms
    recovery: Recovery
    measure: MeasureSettings


def make_parts(settings: Settings) -> Parts:
    """The objects that the settings of a point name, with their own checks passed.

    Raises:
        InstantiationException: caused by the error of one of them.
    """
    return Parts(
        task=shared_task(text(settings["task"])),
        allocation=make(settings["allocation"]),
        where=make(settings["where"]),
        norm=make(settings["norm"]),
        recovery=make(settings["recovery"]),
        measure=make(settings["measure"]),
    )


def check_options(settings: Settings) -> None:
    """Check the options that no part of a point checks.

    Raises:
        ValueError: one of them cannot be; the text names it.
    """
    seed, threads, device = (settings[name] for name in ("seed", "threads", "device"))
    if type(seed) is not int or not 0 <= seed < SEEDS:
        raise ValueError(f"seed={seed} must be a whole number from 0 to {SEEDS - 1}")
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ValueError(f"threads={threads} must be a whole number from 1, or null")
    try:
        torch.empty(0, device=device)
    # Of a device that is not there torch raises whatever its backend raises.
    except Exception as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device={device} cannot be used here; there are: {', '.join(there)}. Torch says: "
            f"{str(error).splitlines()[0]}"
        ) from error


def check_fit(settings: Settings) -> None:
    """Check that a point's method knows its norm, and that its choice of layers and its recovery
    fit the network, untrained.

    Raises:
        ValueError: they do not.
    """
    make(settings["allocation"]).check_norms(make(settings["norm"]).types)
    task = {**settings["task"], "seed": 0}
    fitting(text(task), text(settings["where"]), text(settings["recovery"]))


# Of many points few differ in these.
@functools.lru_cache(maxsize=64)
def fitting(task: str, where: str, recovery: str) -> None:
    """`check_fit` by the configurations (JSON)."""
    network = untrained(task)
    make(json.loads(where)).split(network)
    make(json.loads(recovery)).check(network)


@functools.lru_cache(maxsize=4)
def untrained(config: str) -> nn.Module:
    """The network of a task's configuration (JSON), without its weights."""
    return make(json.loads(config)).network()


def make(config: Mapping[str, Any]) -> Any:
    """The object that `config` names by its `_target_`."""
    return instantiate(config, _convert_="all")


def run_point(config: DictConfig, progress: Progress) -> str | None:
    """Measure the point that `config` describes, and save its record.

    Returns:
        None, or why it failed: a value, so that no process stops over it.
    """
    settings = resolve(config)
    folder = settings["results"]
    overrides = " ".join(HydraConfig.get().overrides.task)
    try:
        # Another process may have measured it since this sweep began.
        if not settings["force"] and results.exists(results.key(settings), folder):
            progress.present(overrides)
            return None
        with computing(settings["seed"], settings["threads"]):
            record = measure_point(settings)
        results.save(record, folder)
    except Exception as error:
        progress.failed(overrides, reason(error))
        if HydraConfig.get().verbose or not stands_alone(cause(error)):
            traceback.print_exc(file=sys.stderr)
        return reason(error)
    progress.finished(record)
    log_point(settings, record)
    return None


def measure_point(settings: Settings) -> dict[str, Any]:
    """The record of a point; see `lowrank.results`."""
    timings: dict[str, float | str] = {}
    parts = make_parts(settings)
    with timing(timings, "total_s"):
        dense = dense_model(text(settings["task"]))
        with timing(timings, "compress_s"):
            data = parts.task if parts.norm.needs_data or parts.allocation.needs_data else None
            compressed = compress(
                dense, parts.allocation, parts.where, parts.task.example(), parts.norm, data
            )
        # After the compression, so that a hyperparameter that does not fit is found at once.
        both = parts.recovery.changes_dense
        shared = {name: settings[name] for name in BASELINE}
        baseline = dense_baseline(text(shared if both else shared | {"recovery": None}))
        with timing(timings, "recover_s"):
            recovered = parts.recovery.recover(compressed.model, parts.task)
        with timing(timings, "evaluate_s"):
            measured = measure(compressed.model, parts.task, parts.measure, baseline.measured)
            comparison = compare(
                baseline.measured, measured, compressed.layers, parts.task, parts.measure
            )
    timings["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "schema": results.SCHEMA,
        "key": results.key(settings),
        "config": settings,
        "task": parts.task.name,
        "model": parts.task.architecture,
        **{name: settings[name] for name in ("method", "family", "level", "seed")},
        "norm": settings["norm_name"],
        "recovery": settings["recovery_name"],
        "dense_recovery": settings["recovery_name"] if both else "none",
        "tuned": parts.recovery.tunes,
        **comparison,
        **baseline.before_recovery,
        "recovered": recovered,
        "layers": [asdict(layer) for layer in compressed.layers],
        "skipped": compressed.skipped,
        "calibration": compressed.calibration,
        "allocation": compressed.allocation,
        "protocol": parts.task.protocol(),
        "environment": environment(settings["device"]),
        "timings": timings,
    }


# What the dense model's measures depend on.
BASELINE = ("task", "recovery", "measure", "seed", "threads")


@dataclass(frozen=True)
class Baseline:
    """The dense model that a compressed one is set beside.

    Attributes:
        measured: after the recovery of the compressed model, if it changes the dense one too.
        before_recovery: the record's field "dense_before_recovery", if there is such a recovery.
    """

    measured: Measured
    before_recovery: dict[str, Any]


# The points of a sweep share these. They come in an order in which few are needed at a time, and
# many seeds must not fill the memory.
@functools.lru_cache(maxsize=4)
def shared_task(config: str) -> Task:
    """The task of a configuration (JSON), with its data decoded once."""
    return make(json.loads(config))


@functools.lru_cache(maxsize=4)
def dense_model(config: str) -> nn.Module:
    """The trained dense model of a task's configuration (JSON); not to be changed."""
    return shared_task(config).model()


@functools.lru_cache(maxsize=4)
def dense_baseline(config: str) -> Baseline:
    """The measured dense model of a configuration (JSON) with the fields `BASELINE`.

    The recovery in it is null where the dense model gets none.
    """
    settings = json.loads(config)
    name = text(settings["task"])
    task, model, how = shared_task(name), dense_model(name), make(settings["measure"])
    measured = measure(model, task, how)
    if settings["recovery"] is None:
        return Baseline(measured, {})
    recovery = make(settings["recovery"])
    recovered = copy.deepcopy(model)
    recovery.recover(recovered, task)
    return Baseline(
        measure(recovered, task, how, measured), {"dense_before_recovery": measured.values}
    )


def text(config: Any) -> str:
    """`config` as a key of a cache."""
    return json.dumps(config, sort_keys=True)


@contextmanager
def computing(seed: int, threads: int | None) -> Iterator[None]:
    """Seed every generator, and let the arithmetic of this process use so many threads."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)
    with threadpool_limits(limits=threads):
        yield


@contextmanager
def timing(timings: dict[str, Any], name: str) -> Iterator[None]:
    """Put the seconds that the block takes under `name`."""
    started = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - started


def reason(error: Exception) -> str:
    """The text of an error for people; behind Hydra's wrapping, that of its cause."""
    found = cause(error)
    return str(found) if stands_alone(found) else f"{type(found).__name__}: {found}"


def cause(error: Exception) -> BaseException:
    """What Hydra wrapped, or the error itself."""
    wrapped = error.__cause__ if isinstance(error, InstantiationException) else None
    return wrapped or error


def stands_alone(error: BaseException) -> bool:
    """Whether the text of an error says all, as ours do, which are ValueErrors."""
    return isinstance(error, ValueError)
