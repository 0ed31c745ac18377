"""Interleaved timing of several kernels on the same inputs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.execution.kernel import Run
from lowrank.measure.speedup import paired_speedup

LEAST_ROUNDS = 5
BLOCK_SECONDS = 0.0002
# A kernel whose first pass takes more than this many times that of the first kernel is timed once.
HOPELESS = 2.0
# Shorter passes are timed after some that bring their weights back into the cache, as in a model
# that runs again and again; for longer ones it makes no difference.
WARMED_SECONDS, WARM_PASSES = 0.02, 3


@dataclass(frozen=True)
class Timed:
    """The times of one kernel, set beside those of the first.

    Attributes:
        seconds: median of one pass.
        speedup: median over the rounds of the first kernel's time over this one's.
        speedup_low, speedup_high: lower and upper bound of that median, each with a confidence of
            95 %; see `paired_speedup`.
    """

    seconds: float
    speedup: float
    speedup_low: float
    speedup_high: float


def race(runs: Sequence[Run], x: Tensor, seconds: float) -> list[Timed]:
    """Time every kernel on `x` in turns, so that a busy machine slows all of them.

    With one thread on a CPU the clock is that of the process, which other processes do not move;
    else that on the wall. Weights and inputs are in the cache as far as they fit in it.

    Args:
        seconds: about how long to go on with rounds of one block each; there are at least 5.
    """
    clock = clock_of(x.device)
    with torch.inference_mode():
        first = [_first_pass(run, x, clock) for run in runs]
        going = [i for i, once in enumerate(first) if i == 0 or once <= HOPELESS * first[0]]
        passes = [max(1, round(BLOCK_SECONDS / max(once, 1e-9))) for once in first]
        times: list[list[float]] = [[] for _ in runs]
        started = time.perf_counter()
        while len(times[0]) < LEAST_ROUNDS or time.perf_counter() - started < seconds:
            order = going if len(times[0]) % 2 == 0 else going[::-1]
            for index in order:
                for _ in range(WARM_PASSES if first[index] < WARMED_SECONDS else 0):
                    runs[index](x)
                times[index].append(block(runs[index], x, passes[index], clock))
    return [_timed(times[0], own or [first[i]], first[0]) for i, own in enumerate(times)]


def block(run: Run, x: Tensor, passes: int, clock: Callable[[], float]) -> float:
    """Seconds of one pass, from a block of passes."""
    started = clock()
    for _ in range(passes):
        run(x)
    return (clock() - started) / passes


def clock_of(device: torch.device) -> Callable[[], float]:
    """The clock for work on a device with as many threads as torch uses now."""
    if device.type == "cuda":

        def synchronized() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return synchronized
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Set the number of CPU threads inside the block; None leaves it as it is."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_pass(run: Run, x: Tensor, clock: Callable[[], float]) -> float:
    """The shorter of two passes after one that may allocate or compile."""
    run(x)
    return min(block(run, x, 1, clock), block(run, x, 1, clock))


def _timed(reference: Sequence[float], own: Sequence[float], once: float) -> Timed:
    """`reference` and `own` by rounds; of a kernel that was timed once, against that `once`."""
    against = reference if len(own) == len(reference) else [once]
    speedup = paired_speedup(against, own)
    return Timed(statistics.median(own), speedup.median, speedup.low, speedup.high)
