"""Wall time of a forward pass, of a dense and a compressed model side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lowrank.measure.speedup import paired_speedup
from lowrank.model.forward import Example, call, check_example, evaluating
from lowrank.model.nested import fresh, tensors
from lowrank.numerics.storage import dtype_name

LEAST_PAIRS = 5
BLOCK_SECONDS = 0.002


@dataclass(frozen=True)
class LatencyComparison:
    """Times of two models on the same inputs, in seconds for one forward pass of the whole batch.

    Attributes:
        dense_s, compressed_s: medians over the blocks.
        dense_iqr_s, compressed_iqr_s: interquartile ranges over the blocks.
        speedup: the median of the ratios dense / compressed of neighbouring blocks, above 1 where
            the compressed model is faster. A load on the machine that slows both spreads the times
            but not this, so that it is not just dense_s / compressed_s. None where there is
            nothing to compare; see `without_speedup`.
        speedup_low, speedup_high: ends of an interval around it; see `paired_speedup`.
        threads: of the CPU.
        dtype: of the dense model's first weight.
    """

    batch_size: int
    dense_s: float
    dense_iqr_s: float
    compressed_s: float
    compressed_iqr_s: float
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    threads: int
    device: str
    dtype: str

    def without_speedup(self) -> LatencyComparison:
        """The times alone, of a model whose compressed layers run as dense matrices.

        Both models then do the same, and a ratio of their times would be noise.
        """
        return replace(self, speedup=None, speedup_low=None, speedup_high=None)


def compare_latency(
    dense: nn.Module,
    compressed: nn.Module,
    example: Example,
    seconds: float = 0.2,
    threads: int | None = None,
) -> LatencyComparison:
    """Time two models in turns: a block of the one, a block of the other, in changing order.

    What is timed is `model(*example)` in evaluation and inference mode, from Python, with the
    device synchronised, after a warm-up in which leaves make their dense copies. Interleaved, a
    machine that slows down or is busy for a while does it to both. Not timed are loading, moving
    the inputs to the device and the first pass.

    Args:
        example: inputs of one batch, on the models' device; the first axis is the batch.
        seconds: how long to go on with pairs of blocks of 2 ms or one pass, many and short so that
            a disturbed one does not move the median. There are at least 5 pairs, and 2 passes of
            warm-up before each block, so a slow model takes longer: some 17 passes of each.
        threads: CPU threads; those that torch uses now if not given.

    Raises:
        ValueError: `example` is no tuple, or seconds or threads are not positive.
    """
    # The import looks for compilers, and prints a message if it finds CUDA's but no GPU.
    from torch.utils.benchmark import Timer

    check_example(example)
    example = fresh(example)
    inputs = tensors(example)
    threads = torch.get_num_threads() if threads is None else threads
    if not seconds > 0 or threads < 1:
        raise ValueError(f"seconds={seconds} must be above 0 and threads={threads} at least 1")
    statement = "model(**example)" if isinstance(example, Mapping) else "model(*example)"
    timers = [
        Timer(statement, globals={"model": m, "example": example}, num_threads=threads)
        for m in (dense, compressed)
    ]
    with evaluating(dense, compressed), torch.inference_mode():
        for model in (dense, compressed):
            call(model, example)
        times = _in_turns(timers, seconds)
    dense_low, dense_s, dense_high = _quartiles(times[0])
    compressed_low, compressed_s, compressed_high = _quartiles(times[1])
    speedup = paired_speedup(*times)
    dtypes = [p.dtype for p in dense.parameters() if p.is_floating_point()]
    return LatencyComparison(
        batch_size=len(inputs[0]),
        dense_s=dense_s,
        dense_iqr_s=dense_high - dense_low,
        compressed_s=compressed_s,
        compressed_iqr_s=compressed_high - compressed_low,
        speedup=speedup.median,
        speedup_low=speedup.low,
        speedup_high=speedup.high,
        threads=threads,
        device=str(inputs[0].device),
        dtype=dtype_name(dtypes[0] if dtypes else inputs[0].dtype),
    )


def _in_turns(timers: Sequence[Any], seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of one pass, from pairs of blocks in changing order."""
    times: tuple[list[float], list[float]] = ([], [])
    # For a whole block, the timer would run up to ten blocks to estimate the time of one.
    warm = [timer.blocked_autorange(min_run_time=BLOCK_SECONDS / 10).median for timer in timers]
    passes = [max(1, round(BLOCK_SECONDS / one_pass)) for one_pass in warm]
    started = time.perf_counter()
    while len(times[0]) < LEAST_PAIRS or time.perf_counter() - started < seconds:
        for turn in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
            times[turn].append(timers[turn].timeit(passes[turn]).median)
    return times


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    quantiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    low, middle, high = torch.tensor(values, dtype=torch.float64).quantile(quantiles).tolist()
    return low, middle, high
