"""Benchmark: the CPU time of methods on one weight, its growth, and what a large model would take.

    python -m experiments.benchmarks.method_cost
    python -m experiments.benchmarks.method_cost --widths 1024 2048 4096 --methods rtn svd

Square float32 weights on one thread, GPTQ in the full norm of random inputs. Hours are the time
of the widest weight times the ratio of the work of all block weights of a Llama of 7 billion
to that of this weight. The work is the leading term of each method for (out, in): out · in for
rounding, out · in · min(out, in) for the SVD, and in³ + out · in² for GPTQ. Where growth from one
width to the next is below that of the work, the estimate is too high. CPU time is that of the
process, since other programs run beside it on most machines. GB are those of all tensors alive
while the weight that takes most is decomposed, without Python and its libraries, 0.4 GB. The last
line is the speed at which a model runs on calibration data.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import lowrank
from lowrank.measure.memory import AliveTensors
from lowrank.norms import IDENTITY, Full, Norm
from lowrank.numerics.memo import MEMO

# Of LLaMA-7B: 32 blocks of these weights (out, in).
BLOCKS = 32
SHAPES = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]


# Memory is followed for sides that are so many times smaller; it grows with their product.
SMALLER = 8


class Case(NamedTuple):
    """A method, whether it is calibrated, and its work on a weight (out, in)."""

    method: Any
    is_calibrated: bool
    work: Callable[[int, int], float]


CASES = {
    "rtn": Case(lowrank.Quantization(bits=4, group_size=64), False, lambda m, n: m * n),
    "svd": Case(lowrank.TruncatedSVD(compression_ratio=2), False, lambda m, n: m * n * min(m, n)),
    "gptq": Case(lowrank.GPTQ(bits=4, group_size=64), True, lambda m, n: n**3 + m * n**2),
}


def given(case: Case, rows: int, columns: int) -> tuple[torch.Tensor, Norm]:
    """A weight and its norm."""
    torch.manual_seed(0)
    weight = torch.randn(rows, columns) / columns**0.5
    if not case.is_calibrated:
        return weight, IDENTITY
    inputs = torch.randn(2 * columns, columns)
    return weight, Full((inputs.T @ inputs).double() / len(inputs))


def seconds(case: Case, width: int) -> float:
    """CPU time of one decomposition."""
    weight, norm = given(case, width, width)
    MEMO.clear()
    start = time.process_time()
    case.method.decompose(weight, norm)
    return time.process_time() - start


def gigabytes(case: Case) -> float:
    """The most bytes of tensors alive, for the weight of the large model that takes most."""

    def held(rows: int, columns: int) -> int:
        weight, norm = given(case, rows // SMALLER, columns // SMALLER)
        MEMO.clear()
        with AliveTensors([weight]) as alive:
            case.method.decompose(weight, norm)
        return alive.peak * SMALLER**2

    return max(held(*shape) for shape in dict.fromkeys(SHAPES)) / 1e9


def operations() -> float:
    """Multiplications and additions a second in a product of two 2048² float32 matrices."""
    one, other = torch.randn(2, 2048, 2048)
    _ = one @ other
    start = time.process_time()
    _ = one @ other
    return 2 * 2048**3 / (time.process_time() - start)


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds(CASES["rtn"], 64)  # What only the first call pays.
    widths = "".join(f"{width:>9d}²" for width in options.widths)
    print(f"  CPU s   {widths}  7 billion: hours      GB")
    for name in options.methods:
        case, widest = CASES[name], options.widths[-1]
        found = [seconds(case, width) for width in options.widths]
        work = BLOCKS * sum(case.work(*shape) for shape in SHAPES) / case.work(widest, widest)
        times = "".join(f"{one:10.2f}" for one in found)
        hours, most = found[-1] * work / 3600, gigabytes(case)
        print(f"  {name:8s}{times} {hours:17.1f} {most:7.1f}", flush=True)
    print(f"  products of matrices: {operations() / 1e9:.0f} billion operations a second")


if __name__ == "__main__":
    main()
