"""Benchmark: the rank, sparsity or bits from which a layer is faster than dense on this machine.

    python -m experiments.benchmarks.break_even              # about 2 minutes on one core
    python -m experiments.benchmarks.break_even --widths 768 --batches 1 16 --allowed exact
    python -m experiments.benchmarks.break_even --out map    # map/break-even.{png,svg,csv,md}

One square layer of random weights for each width; for each setting and batch size the fastest
kernel that `optimize_for` finds, its speed-up over the dense layer (`nn.Linear`'s product), and
that over the fastest dense product in any layout. Codes run in 8-bit integers or beside bfloat16
inputs where `--allowed` lets them (default: int8), and the table has the error of the outputs.
The last table is the map itself: the least compression at which a layer is clearly faster.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from experiments.required import REPORTS, require
from lowrank.decomposers import MagnitudePruning, Quantization
from lowrank.execution import ACCURACIES, Accuracy, Search, optimize_for
from lowrank.execution.choice import MARGIN
from lowrank.execution.timing import threads
from lowrank.factorizations import Dense, Factorization, Product
from lowrank.measure.environment import environment
from lowrank.model.factorized import FactorizedLinear
from lowrank.norms import IDENTITY

if TYPE_CHECKING:
    import pandas as pd

RANKS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2)
ZEROS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
BITS = (2, 3, 4, 8)


def forms(width: int) -> Iterator[tuple[str, float, Factorization, bool]]:
    """Family, setting, the weight in that form, and whether it is to run by codes."""
    weight = torch.randn(width, width) * width**-0.5
    for share in RANKS:
        rank = max(1, round(share * width))
        left, right = torch.randn(width, rank), torch.randn(rank, width)
        scale = (width * rank) ** -0.25
        yield "low rank", share, Product(Dense(left * scale), Dense(right * scale)), False
    for zeros in ZEROS:
        yield "sparse", zeros, MagnitudePruning(zeros).decompose(weight, IDENTITY), False
    for bits in BITS:
        method = Quantization(bits=bits, group_size="channel" if bits == 8 else 64)
        yield "quantized", bits, method.decompose(weight, IDENTITY), True


def measure(
    width: int, batches: list[int], allowed: Accuracy, seconds: float
) -> Iterator[dict[str, Any]]:
    """A row for each setting and batch size."""
    for family, setting, form, by_codes in forms(width):
        layer = FactorizedLinear(form, None)
        for batch in batches:
            # Only codes are run by kernels that round: a dense or sparse float layer that does so
            # has been quantized, which is another compression.
            accuracy = allowed if by_codes else "exact"
            example = (torch.randn(batch, width),)
            plan = optimize_for(layer, example, accuracy, search=Search(seconds)).plan
            (chosen,) = plan.layers
            yield {
                "family": family,
                "shape": f"{width} × {width}",
                "width": width,
                "batch": batch,
                "setting": setting,
                "speedup": chosen.speedup,
                "over_best_dense": chosen.speedup_over_best_dense,
                "kernel": chosen.describe(),
                "error": chosen.error,
                "packed_mib": chosen.packed_bytes / 2**20,
            }


def break_even_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The weakest compression that is clearly faster than any dense product, as are all stronger.

    Stronger is a lower rank, more zeros, fewer bits; "–" where even the strongest is not faster.
    """
    import pandas as pd

    rows = []
    groups: Any = frame.groupby(["family", "batch", "width"], sort=False)
    for (family, batch, width), part in groups:
        # From the strongest compression to the weakest.
        part = part.sort_values("setting", ascending=family != "sparse")
        pairs = zip(part["setting"], part["over_best_dense"], strict=True)
        faster = list(itertools.takewhile(lambda pair: pair[1] >= MARGIN, pairs))
        rows.append((family, batch, width, _setting(family, faster[-1][0]) if faster else "–"))
    table = pd.DataFrame(rows, columns=["family", "batch", "width", "from"])
    return table.pivot(index=["family", "batch"], columns="width", values="from").reset_index()


def _setting(family: str, value: float) -> str:
    return f"{value:g} bits" if family == "quantized" else f"{100 * value:.3g} %"


def main() -> None:
    """Run the benchmark of the command line."""
    require("this benchmark", *REPORTS)
    import pandas as pd

    from lowrank.reporting.plots import break_even, save

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--allowed", choices=ACCURACIES, default="int8")
    parser.add_argument("--seconds", type=float, default=0.02, help="per search of a layer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/break_even"))
    options = parser.parse_args()
    torch.manual_seed(0)
    with threads(options.threads):
        rows = []
        for width in options.widths:
            rows += measure(width, options.batches, options.allowed, options.seconds)
            print(f"{width} × {width} measured", flush=True)
    frame = pd.DataFrame(rows)
    note = f"{environment()['cpu']}, {options.threads} thread(s), torch {torch.__version__}"
    table = break_even_table(frame)
    save(break_even(frame, note), options.out / "break-even")
    frame.to_csv(options.out / "break-even.csv", index=False, float_format="%.4g")
    text = (
        "Faster than any dense product up to a rank / width, from a share of zeros on, up to bits"
    )
    text += f" ({note}):\n\n{table.to_markdown(index=False)}\n"
    (options.out / "break-even.md").write_text(text, encoding="utf-8")
    print(frame.drop(columns="width").to_string(index=False, float_format="%.3g"))
    print(f"\n{text}\nwritten to {options.out}")


if __name__ == "__main__":
    main()
