"""Benchmark: latency of compressed layers, by themselves and with the kernels of `optimize_for`.

    python -m experiments.benchmarks.layer_latency           # about 3 minutes on one core
    python -m experiments.benchmarks.layer_latency --width 1024 --batches 1 64

An MLP of square layers, its weights random, since numbers do not change the time. Each row is one
compression at one batch size: the speed-up over the dense MLP as the factorizations run themselves
and with the kernels that `optimize_for` chose; the ideal, by multiplications for low rank and
sparse, by bytes for codes; and the share of it that is reached. The three models are timed in turns
on one thread, by the clock of the process. `allowed` is what the kernels may change; see
`optimize_for`. The last lines say which of the promises in docs/when-is-it-faster.md hold here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowrank.decomposers import Decomposer, MagnitudePruning, Quantization
from lowrank.execution import Accuracy, Search, optimize_for
from lowrank.execution.timing import race, threads
from lowrank.factorizations import Dense, Factorization, Product
from lowrank.measure.environment import environment
from lowrank.model.factorized import FactorizedLinear
from lowrank.norms import IDENTITY


@dataclass(frozen=True)
class LatencyCase:
    """A compression, its ideal speed-up, and what is promised of it.

    Attributes:
        promised: batch size → least speed-up.
    """

    name: str
    make: Callable[[torch.Tensor], Factorization]
    ideal: float
    allowed: Accuracy
    promised: dict[int, float]


def low_rank(rank: int) -> Callable[[torch.Tensor], Factorization]:
    """Random factors: of all that a decomposition gives, only the shapes matter here."""

    def make(weight: torch.Tensor) -> Factorization:
        out, into = weight.shape
        scale = (out * rank) ** -0.25
        return Product(
            Dense(torch.randn(out, rank) * scale), Dense(torch.randn(rank, into) * scale)
        )

    return make


def by(decomposer: Decomposer) -> Callable[[torch.Tensor], Factorization]:
    """A function that decomposes a weight in the identity norm."""
    return lambda weight: decomposer.decompose(weight, IDENTITY)


def cases(width: int) -> list[LatencyCase]:
    """The rows of the table for one width."""
    found = []
    for share in (16, 8, 4, 2):
        rank = width // share
        ideal = width / (2 * rank)
        promised = {1: 1.0, 512: 0.9 * ideal}
        found.append(LatencyCase(f"rank 1/{share}", low_rank(rank), ideal, "exact", promised))
    for zeros in (0.8, 0.9, 0.95):
        promised = {1: 1.0} | ({32: 4.0} if zeros == 0.9 else {})
        make = by(MagnitudePruning(zeros))
        found.append(LatencyCase(f"{zeros:.0%} zeros", make, 1 / (1 - zeros), "exact", promised))
    eight, four = by(Quantization(bits=8)), by(Quantization(bits=4, group_size=128))
    found += [
        LatencyCase("8 bits", eight, 4.0, "exact", {1: 1.0}),
        LatencyCase("8 bits", eight, 4.0, "bfloat16", {1: 1.0}),
        LatencyCase("8 bits", eight, 4.0, "int8", {1: 4.0}),
        LatencyCase("4 bits", four, 32 / 4.125, "bfloat16", {1: 1.0}),
        LatencyCase("4 bits", four, 32 / 4.125, "int8", {1: 1.0}),
    ]
    return found


def network(width: int, layers: int, make: Callable[[torch.Tensor], nn.Module]) -> nn.Sequential:
    """Square layers with a ReLU between them."""
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules += [make(torch.randn(width, width) * width**-0.5), nn.ReLU()]
    return nn.Sequential(*modules[:-1]).eval()


def dense_layer(weight: torch.Tensor) -> nn.Linear:
    """The layer that all are set beside."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight
    return layer


def measure(
    case: LatencyCase, dense: nn.Module, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each batch size."""
    torch.manual_seed(1)
    zeros = torch.zeros(options.width)
    compressed = network(
        options.width,
        options.layers,
        lambda weight: FactorizedLinear(case.make(weight), nn.Parameter(zeros)),
    )
    rows = []
    for batch in options.batches:
        example = (torch.randn(batch, options.width),)
        search = Search(seconds=options.seconds)
        optimized = optimize_for(compressed, example, case.allowed, search=search)
        models = (dense, compressed, optimized.model)
        times = race(models, example[0], 5 * options.seconds)
        speedup, promised = times[2].speedup, case.promised.get(batch)
        rows.append(
            {
                "case": case.name,
                "allowed": case.allowed,
                "batch": batch,
                "as it is": times[1].speedup,
                "optimised": speedup,
                "ideal": case.ideal,
                "share": speedup / case.ideal,
                "error": optimized.plan.error,
                "packed MiB": optimized.plan.packed_bytes / 2**20,
                "kernels": optimized.plan.summary(),
                "promised": promised,
            }
        )
        print("  ", *(_text(value) for value in rows[-1].values()), sep="  ", flush=True)
    return rows


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2g}" if value < 0.01 else f"{value:.2f}"
    return "–" if value is None else str(value)


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 512])
    parser.add_argument("--seconds", type=float, default=0.2, help="per search of a layer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    with threads(options.threads):
        torch.manual_seed(0)
        dense = network(options.width, options.layers, dense_layer)
        rows = []
        print(f"{options.layers} layers {options.width} × {options.width}, ", end="")
        print(f"{options.threads} thread(s), {environment()['cpu']}")
        print(
            "case, allowed, batch, speed-up as it is, optimised, ideal, share, error, packed MiB,"
        )
        print("kernels, promised speed-up")
        for case in (case for case in cases(options.width) if options.only in case.name):
            rows += measure(case, dense, options)
    for row in rows:
        if row["promised"] is not None:
            # Equal within the noise of one comparison counts as not slower.
            least = row["promised"] if row["promised"] > 1 else 0.97
            verdict = "holds" if row["optimised"] >= least else "FAILS"
            print(
                f"{verdict}: {row['case']} ({row['allowed']}), batch {row['batch']}: "
                f"{row['optimised']:.2f} ≥ {row['promised']:.2f}"
            )


if __name__ == "__main__":
    main()
