"""What surrounds the measurement of a point: seeded generators, threads and times."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lowrank.files.extras import need
from lowrank.records.companions import training_name
from lowrank.tasks import resumable


@contextmanager
def computing(seed: int, threads: int | None) -> Iterator[None]:
    """Seed every generator, and let arithmetic use so many threads inside; as before afterwards.

    Raises:
        MissingExtra: a number of threads, without threadpoolctl; it is in the extra ``sweep``.
    """
    if threads is not None:
        need("threads=…", "threadpoolctl", instead="leave threads out")
    before, drawn = torch.get_num_threads(), (random.getstate(), np.random.get_state())
    try:
        # Named, or torch warns where there are several.
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices), _limited(threads):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
        torch.set_num_threads(before)


def _limited(threads: int | None) -> AbstractContextManager[Any]:
    """Inside, all libraries use `threads` threads of the CPU."""
    if threads is None:
        return nullcontext()
    # Imported here, since only a number of threads needs it.
    from threadpoolctl import threadpool_limits

    limits = threadpool_limits(limits=threads)
    torch.set_num_threads(threads)
    return limits


@contextmanager
def timing(timings: dict[str, Any], name: str) -> Iterator[None]:
    """Store the seconds that the block takes in `timings` under `name`."""
    started = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - started


def resuming_in(folder: Path | None, key: str) -> AbstractContextManager[None]:
    """Inside, trainings keep their states beside the record of a point, if there is a folder."""
    return nullcontext() if folder is None else resumable(folder / training_name(key))


def without_step_times(recovered: dict[str, Any]) -> dict[str, Any]:
    """Take the median seconds of a step out of what a recovery found, in place, for the timings.

    Returns:
        "step_s", and of recoveries in order a list of those of each; nothing if there are none.
    """
    found = [recovered.pop("step_s", None)]
    steps = recovered.get("steps")
    if isinstance(steps, list):
        found = [step.pop("step_s", None) for step in steps]
    if all(seconds is None for seconds in found):
        return {}
    return {"step_s": found if len(found) > 1 else found[0]}
