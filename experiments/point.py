"""One point of a sweep: a task's model compressed by one method and measured against itself."""

from __future__ import annotations

import functools
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from threadpoolctl import threadpool_limits
from torch import nn

from experiments.composer import resolve
from experiments.parts import (
    Settings,
    make,
    make_parts,
    reason,
    say_where,
    shared_task,
    text,
    with_seed,
)
from experiments.progress import Outcome, Progress
from experiments.trackers import log_point
from lowrank.compression.compress import compress
from lowrank.measure.environment import environment
from lowrank.model.copying import copied
from lowrank.numerics.memo import unchanging
from lowrank.point import Measured, compare, measure
from lowrank.records import store
from lowrank.records.claims import Claims
from lowrank.tasks import Task


def run_point(config: DictConfig, progress: Progress) -> Outcome:
    """Measure the point that `config` describes, and save its record.

    Returns:
        What became of it: a value, so that no process stops over an error.
    """
    settings = resolve(config)
    folder = Path(settings["results"])
    overrides = " ".join(HydraConfig.get().overrides.task)
    try:
        with Claims(folder).taking(store.key(settings)) as is_ours:
            # Asked with the claim, so that nobody else can have begun in between.
            if was_measured(settings, progress.since.get(str(folder), 0.0)):
                progress.present(overrides)
                return "present"
            if not is_ours:
                return "claimed"
            with computing(settings["seed"], settings["threads"]):
                record = measure_point(settings)
            store.save(record, folder)
    except Exception as error:
        progress.failed(overrides, reason(error))
        say_where(error)
        return "failed"
    progress.finished(record)
    log_point(settings, record)
    return "measured"


def was_measured(settings: Settings, since: float) -> bool:
    """Whether the point has its record; if it is to be measured again, one made after `since`."""
    path = Path(settings["results"]) / f"{store.key(settings)}.json"
    if settings["force"]:
        return path.exists() and path.stat().st_mtime > since
    return store.exists(path.stem, path.parent)


def measure_point(settings: Settings) -> dict[str, Any]:
    """The record of a point; see `lowrank.records.store`."""
    timings: dict[str, float | str] = {}
    parts = make_parts(settings)
    with timing(timings, "total_s"):
        dense = dense_model(text(drawing_model(settings["task"], parts.task)))
        with timing(timings, "compress_s"):
            data = parts.task if parts.needs_data else None
            compressed = compress(
                dense,
                parts.method,
                parts.where,
                parts.task.example(),
                parts.norm,
                data,
                values=settings["values"],
            )
        # After the compression, so that a hyperparameter that does not fit is found at once.
        both = parts.recovery.changes_dense
        baseline = dense_baseline(text(of_baseline(settings, parts.task, both)))
        with timing(timings, "recover_s"):
            recovered = parts.recovery.recover(compressed.model, parts.task)
            compressed.recount()
        with timing(timings, "evaluate_s"):
            measured = measure(compressed.model, parts.task, parts.measure, baseline.measured)
            comparison = compare(baseline.measured, measured, compressed, parts.task, parts.measure)
    timings["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "schema": store.SCHEMA,
        "key": store.key(settings),
        "config": settings,
        "task": parts.task.name,
        "model": parts.task.architecture,
        "method": settings["method_name"],
        "family": parts.method.family,
        "level": parts.method.level,
        "allocates": parts.allocates,
        "seed": settings["seed"],
        "norm": settings["norm_name"],
        "recovery": settings["recovery_name"],
        "dense_recovery": settings["recovery_name"] if both else "none",
        "tuned": parts.recovery.tunes,
        **comparison,
        **baseline.before_recovery,
        "recovered": recovered,
        "layers": [asdict(layer) for layer in compressed.layers],
        "skipped": compressed.skipped,
        "left": compressed.left,
        "calibration": compressed.calibration,
        "allocation": compressed.allocation,
        "protocol": parts.task.protocol() | {"batch_size": parts.measure.of(parts.task).batch_size},
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


def drawing_model(task: Settings, made: Task) -> Settings:
    """The settings of a task with those of its seeds alone that its dense model is drawn with."""
    return with_seed(task, task["seed"] if made.draws_model else 0)


def of_baseline(settings: Settings, made: Task, is_recovered: bool) -> Settings:
    """The settings that the dense model's measures depend on; no recovery (null) changes them, and
    no seed that only a recovery draws with, unless the dense model is recovered too."""
    own = {name: settings[name] for name in BASELINE}
    if is_recovered:
        return own
    task = drawing_model(settings["task"], made)
    return own | {"task": task, "recovery": None, "seed": task["seed"]}


# The points of one dense model follow each other. Two large ones would not fit beside them.
@functools.lru_cache(maxsize=1)
def dense_model(config: str) -> nn.Module:
    """The trained dense model of a task's configuration (JSON); not to be changed."""
    return unchanging(shared_task(config).model())


# As it is, and recovered.
@functools.lru_cache(maxsize=2)
def dense_baseline(config: str) -> Baseline:
    """The measured dense model of a configuration (JSON) with the fields `BASELINE`.

    The recovery in it is null where the dense model gets none.
    """
    settings = json.loads(config)
    task, how = shared_task(text(settings["task"])), make(settings["measure"])
    if settings["recovery"] is None:
        return Baseline(measure(dense_model(text(settings["task"])), task, how), {})
    before = dense_baseline(text(of_baseline(settings, task, False))).measured
    recovery = make(settings["recovery"])
    recovered = copied(before.model).model
    recovery.recover(recovered, task)
    return Baseline(measure(recovered, task, how, before), {"dense_before_recovery": before.values})


@contextmanager
def computing(seed: int, threads: int | None) -> Iterator[None]:
    """Seed every generator, and let arithmetic use so many threads inside, and as before after."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    before = torch.get_num_threads()
    try:
        with threadpool_limits(limits=threads):
            if threads is not None:
                torch.set_num_threads(threads)
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def timing(timings: dict[str, Any], name: str) -> Iterator[None]:
    """Put the seconds that the block takes under `name`."""
    started = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - started
