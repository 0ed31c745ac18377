"""Operations that a decomposition dispatches for each column, and its waits for numbers.

    python -m experiments.benchmarks.launches                       # about three minutes on 2 cores
    python -m experiments.benchmarks.launches --size 256 --methods gptq awq

On an accelerator each operation but a view is a launch of some microseconds, and at each wait it
idles; both are counted here without one, as operations run eagerly on a CPU. Random weights and
correlated inputs, size × size.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lowrank.decomposers import (
    ALPS,
    AWQ,
    GPTQ,
    HQQ,
    Decomposer,
    EntropyCodedQuantization,
    LowRankPlusSparse,
    LowRankTimesSparse,
    PruneAndQuantize,
    Quantization,
    QuantizedPlusLowRank,
    SparseGPT,
    TruncatedSVD,
)
from lowrank.norms import IDENTITY, Full, Norm
from lowrank.numerics.memo import MEMO

WAIT = "_local_scalar_dense"
# They make another tensor on the same memory, and launch nothing.
VIEWS = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "slice", "select", "t", "transpose", "permute"),
        *("expand", "unsqueeze", "squeeze", "detach", "alias", "as_strided", "split", "unbind"),
        *("diagonal", WAIT),
    }
)
# Name → a method for matrices (size, size), and whether it is measured in the norm of inputs.
METHODS: dict[str, tuple[Callable[[int], Decomposer], bool]] = {
    "scale search": (lambda n: Quantization(bits=4, group_size=128, scale="mse"), False),
    "hqq": (lambda n: HQQ(4, 64), False),
    "gptq": (lambda n: GPTQ(4, 128), True),
    "gptq, zero points": (lambda n: GPTQ(3, 64, symmetric=False), True),
    "awq": (lambda n: AWQ(4, 128), True),
    "sparsegpt": (lambda n: SparseGPT(0.5), True),
    "sparsegpt 2:4": (lambda n: SparseGPT(pattern="2:4"), True),
    "alps": (lambda n: ALPS(0.5), True),
    "svd_llm": (lambda n: TruncatedSVD(rank=n // 8), True),
    "pruned and quantized": (lambda n: PruneAndQuantize(ALPS(0.5), GPTQ(4, 128)), True),
    "quantized + low rank": (lambda n: QuantizedPlusLowRank(16, GPTQ(3, 64)), True),
    "entropy coded": (lambda n: EntropyCodedQuantization(bits=3), True),
    "low rank + sparse": (lambda n: LowRankPlusSparse(compression_ratio=2), True),
    "low rank x sparse": (lambda n: LowRankTimesSparse(compression_ratio=2), True),
}


@dataclass(frozen=True)
class Launches:
    """What a decomposition dispatched.

    Attributes:
        operations: all but views.
        waits: for a number on the device.
    """

    operations: int
    waits: int


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def launches(name: str, size: int) -> Launches:
    """The launches of a method of `METHODS` on a matrix (size, size)."""
    make, has_inputs = METHODS[name]
    weight, norm = problem(size)
    method = make(size)
    MEMO.clear()
    with _Counting() as counting:
        method.decompose(weight, norm if has_inputs else IDENTITY)
    counts = counting.counts
    operations = sum(count for name, count in counts.items() if name not in VIEWS)
    return Launches(operations, counts[WAIT])


def problem(size: int) -> tuple[Tensor, Norm]:
    """A random weight, and the norm of random inputs."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(size, size, generator=generator)
    inputs = torch.randn(4 * size, size, generator=generator)
    return weight, Full((inputs.T @ inputs / len(inputs)).double(), damping=0.01)


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"  {'':24s}{'launches':>10s}{'a column':>10s}{'waits':>8s}")
    for name in options.methods:
        found = launches(name, options.size)
        each = found.operations / options.size
        print(f"  {name:24s}{found.operations:10,d}{each:10.1f}{found.waits:8,d}")


if __name__ == "__main__":
    main()
