"""Benchmark: the time of calibration in a sweep of 16 levels that share it, and its memory.

    python -m experiments.benchmarks.calibration_cost             # about a minute on 2 cores
    python -m experiments.benchmarks.calibration_cost --width 1024 --rounds 3

In one process, rounds interleaved, on a chain of blocks in the full norm:

- how often the model ran and each weight was decomposed, for 1 level and for 16;
- 16 levels that share calibration and decompositions, over 16 that forget them;
- peak memory above the model, of one-shot and of sequential calibration, beside the statistics of
  all layers and of one block.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from experiments.benchmarks.sweep_cost import describe, seconds
from lowrank.calibration import CalibratedNorms, Job
from lowrank.compression.compress import compress
from lowrank.decomposers import TruncatedSVD
from lowrank.measure.memory import AliveTensors
from lowrank.model.sites import find_sites
from lowrank.numerics.memo import MEMO, unchanging

LEVELS = 16


class Block(nn.Module):
    """A residual block of two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class BlockStack(nn.Module):
    """Blocks one after the other; counts its own forward passes."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        for block in self.blocks:
            x = block(x)
        return x


def sweep(model: BlockStack, data: list[Tensor], levels: int, forget: bool = False) -> None:
    """Compress at `levels` ranks; with `forget`, each as if it were the first."""
    widest = model.blocks[0].get_submodule("up").get_parameter("weight").shape[1]
    for level in range(1, levels + 1):
        if forget:
            MEMO.clear()
        rank = level * widest // (2 * LEVELS)
        compress(model, TruncatedSVD(rank=rank), norm=CalibratedNorms("full"), data=data)


def counts(model: BlockStack, data: list[Tensor], levels: int) -> str:
    """The work of a sweep: forward passes of the dense model, and computed kernels."""
    MEMO.clear()
    model.passes = 0
    sweep(model, data, levels)
    return f"{model.passes:4d} forward passes, {MEMO.misses:4d} kernels computed"


def calibrate(
    model: BlockStack, data: list[Tensor], mode: Literal["one-shot", "sequential"]
) -> None:
    """Give every weight its norm, and do nothing with it."""
    sites = find_sites(model)
    job = Job(model, model, sites, {site.name: "channel" for site in sites}, data)
    for _, norm in CalibratedNorms("full", mode=mode).over(job):
        del norm


def peak(work: Callable[[], object], resident: list[Tensor]) -> int:
    """Bytes alive at the worst moment of a call, above those that were there before."""
    MEMO.clear()
    with AliveTensors(resident) as alive:
        before = alive.now
        work()
        return alive.peak - before


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = BlockStack(options.width, options.depth).eval()
    unchanging(model)
    data = [torch.randn(256, options.width) for _ in range(16)]
    print(f"{options.depth} blocks of width {options.width}, {options.threads} thread(s)")
    print(f"   1 level   {counts(model, data, 1)}")
    print(f"  {LEVELS} levels  {counts(model, data, LEVELS)}")

    shared, alone = [], []
    for _ in range(options.rounds):
        MEMO.clear()
        shared.append(seconds(lambda: sweep(model, data, LEVELS)))
        alone.append(seconds(lambda: sweep(model, data, LEVELS, forget=True)))
    print(f"  shared       {describe(shared)}")
    print(f"  independent  {describe(alone)}")
    print(f"independent / shared  {statistics.median(alone) / statistics.median(shared):.1f}")

    for mode in ("one-shot", "sequential"):
        used = peak(lambda mode=mode: calibrate(model, data, mode), [*model.parameters(), *data])
        print(f"peak memory, {mode:10s}  {used / 2**20:8.1f} MiB above the model")
    block = 8 * (options.width**2 + (2 * options.width) ** 2) / 2**20
    print(f"statistics of a block {block:10.1f} MiB, of all {block * options.depth:.1f} MiB")


if __name__ == "__main__":
    main()
