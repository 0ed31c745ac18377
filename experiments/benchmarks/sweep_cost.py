"""Benchmark: the time of a sweep over ranks with kernels shared among points, and without.

    python -m experiments.benchmarks.sweep_cost              # about 3 minutes on 2 cores
    python -m experiments.benchmarks.sweep_cost --width 512 --rounds 3

Two ratios, each of medians of interleaved rounds in one process:

- sharing: 32 ranks of one network, every point forgetting the kernels, against the same 32 ranks
  sharing them. The points do nothing but compress.
- one more point: compressing at a rank not yet tried, over evaluating the compressed network once
  on 10,000 examples; below 1 the sweep is bound by its evaluations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import TruncatedSVD
from lowrank.numerics.memo import MEMO


def network(width: int) -> nn.Sequential:
    """Four square layers whose spectra decay, as those of trained networks do."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(4))).eval()
    for layer in model:
        assert isinstance(layer, nn.Linear)
        u, _, vh = torch.linalg.svd(torch.randn(width, width))
        layer.weight.data = (u * torch.arange(1.0, width + 1) ** -0.5) @ vh
    return model


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def describe(times: list[float]) -> str:
    """Median and range, in seconds."""
    return f"{statistics.median(times):8.3f} s  ({min(times):.3f} … {max(times):.3f})"


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = network(options.width)
    ranks = [max(1, options.width // 2 * step // 33) for step in range(1, 33)]
    examples = torch.randn(10_000, options.width)

    def shared() -> None:
        MEMO.clear()
        for rank in ranks:
            compress(model, TruncatedSVD(rank=rank))

    def independent() -> None:
        for rank in ranks:
            MEMO.clear()
            compress(model, TruncatedSVD(rank=rank))

    def evaluate(compact: nn.Module) -> None:
        with torch.inference_mode():
            compact(examples)

    times: dict[str, list[float]] = {"shared": [], "independent": [], "point": [], "evaluation": []}
    for _ in range(options.rounds):
        times["independent"].append(seconds(independent))
        times["shared"].append(seconds(shared))
        for rank in ranks[::4]:  # The kernels are there now; these ranks were not tried.
            method = TruncatedSVD(rank=rank + 1)
            times["point"].append(seconds(lambda method=method: compress(model, method)))
            compact = compress(model, method).model
            times["evaluation"].append(seconds(lambda compact=compact: evaluate(compact)))

    print(f"{len(ranks)} ranks of 4 layers {options.width} × {options.width}, ", end="")
    print(f"{options.threads} thread(s), {options.rounds} rounds")
    for name, values in times.items():
        print(f"  {name:12s} {describe(values)}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"independent / shared        {medians['independent'] / medians['shared']:.1f}")
    print(f"one more point / evaluation {medians['point'] / medians['evaluation']:.2f}")


if __name__ == "__main__":
    main()
