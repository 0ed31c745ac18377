"""Benchmark: the memory of a sweep of levels above that of the model: copies and kept kernels.

    python -m experiments.benchmarks.compress_memory                 # about a minute on 1 core
    python -m experiments.benchmarks.compress_memory --width 1024 --depth 4

Each method compresses a network of square float32 layers at every level in turn, as a sweep does.
All numbers are in multiples of the model's bytes, tensors followed one by one on the CPU (scratch
space inside a kernel is not seen):

- one level: alive at the worst moment of compressing once, above the model, with the compressed
  copy and, in the full norm, the statistics in float64 (2 times the model for square layers);
- all levels: the same of the whole sweep, whose kernels are kept for the next level;
- kept: what stays alive afterwards, until the kernels are forgotten.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    GPTQ,
    Decomposer,
    MagnitudePruning,
    Quantization,
    SparseGPT,
    TruncatedSVD,
)
from lowrank.measure.memory import AliveTensors
from lowrank.numerics.memo import MEMO

LEVELS: dict[str, Callable[[int], Sequence[Decomposer]]] = {
    "TruncatedSVD": lambda n: [TruncatedSVD(rank=n // k) for k in (4, 6, 8, 12, 16)],
    "MagnitudePruning": lambda n: [MagnitudePruning(s / 10) for s in range(5, 10)],
    "Quantization": lambda n: [Quantization(bits, 64, scale="mse") for bits in (8, 6, 4, 3, 2)],
    "TruncatedSVD, full norm": lambda n: [TruncatedSVD(rank=n // k) for k in (4, 6, 8, 12, 16)],
    "SparseGPT, full norm": lambda n: [SparseGPT(s / 10) for s in range(5, 10)],
    "GPTQ, full norm": lambda n: [GPTQ(bits, 64, scale="range") for bits in (8, 6, 4, 3, 2)],
}


def network(width: int, depth: int) -> nn.Sequential:
    """Square layers with an activation after each."""
    torch.manual_seed(0)
    parts = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*parts).eval()


def sweep(model: nn.Module, levels: Sequence[Decomposer], data: list[Tensor] | None) -> None:
    """Compress at every level, keeping no compressed model."""
    for method in levels:
        if data is None:
            compress(model, method)
        else:
            compress(model, method, norm=CalibratedNorms("full"), data=data)


def above(model: nn.Module, work: Callable[[], None], others: list[Tensor]) -> tuple[float, float]:
    """The peak of a call and what it leaves, above what was there, in multiples of the model."""
    MEMO.clear()
    size = sum(parameter.nbytes for parameter in model.parameters())
    with AliveTensors([*model.parameters(), *others]) as alive:
        before = alive.now
        work()
        gc.collect()
        return (alive.peak - before) / size, (alive.now - before) / size


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = network(options.width, options.depth)
    samples = [torch.randn(256, options.width) for _ in range(8)]
    print(f"{options.depth} layers {options.width} × {options.width}; times the model's bytes")
    print(f"  {'method':26s} one level  all levels    kept")
    for name, make in LEVELS.items():
        levels = make(options.width)
        data = samples if "full norm" in name else None
        once, _ = above(model, lambda ls=levels, d=data: sweep(model, ls[:1], d), samples)
        peak, kept = above(model, lambda ls=levels, d=data: sweep(model, ls, d), samples)
        print(f"  {name:26s} {once:9.2f}  {peak:10.2f}  {kept:6.2f}")


if __name__ == "__main__":
    main()
