"""Benchmark: the time and the excess error of singular vectors, against those of other libraries.

    python -m experiments.benchmarks.decomposition                # about 3 minutes on 1 core
    python -m experiments.benchmarks.decomposition --shapes 512x512 --rounds 5 --threads 4

On float32 matrices whose spectrum falls as those of trained weights do, σ_i = i^(-1/2), and at half
of the rank at which factors stop being smaller. All routes of one shape run in turn, in one
process; the ratio is that of CPU time on one thread, and of wall time on more, to that of
`torch.linalg.svd` in the same round: median and range. The excess is that of the error over the
least one, as a share of it; `bound` is what `lowrank` knows of its own without the optimum.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.required import require
from lowrank.numerics import spectral
from lowrank.numerics.memo import MEMO

SHAPES = ("512x512", "1024x1024", "2048x2048", "1024x4096")


class BoundedFactors(NamedTuple):
    """left (out, rank) and right (rank, in), and a bound of the excess where there is one."""

    left: Tensor
    right: Tensor
    bound: float | None = None


Route = Callable[[Tensor, int], BoundedFactors]


def by_torch(matrix: Tensor, rank: int) -> BoundedFactors:
    """All singular values, then the largest."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return BoundedFactors(u[:, :rank] * s[:rank], vh[:rank])


def by_lowrank(matrix: Tensor, rank: int) -> BoundedFactors:
    """The route that `TruncatedSVD` takes, and its check; serves all ranks."""
    MEMO.clear()
    found, _ = spectral.leading(matrix, rank)
    left = found.u[:, :rank] * found.s[:rank]
    return BoundedFactors(left, found.vh[:rank], float(found.excess[rank]))


def by_float64(matrix: Tensor, rank: int) -> BoundedFactors:
    """The same in float64 alone."""
    MEMO.clear()
    found = spectral.analysis(matrix, route="float64")
    left = found.u[:, :rank] * found.s[:rank]
    return BoundedFactors(left, found.vh[:rank], float(found.excess[rank]))


def by_torch_lowrank(matrix: Tensor, rank: int) -> BoundedFactors:
    """Randomised, 2 iterations, 10 vectors more than wanted."""
    u, s, v = torch.svd_lowrank(matrix, q=min(rank + 10, *matrix.shape), niter=2)
    return BoundedFactors(u[:, :rank] * s[:rank], v[:, :rank].T)


def by_sklearn(matrix: Tensor, rank: int) -> BoundedFactors:
    """Randomised, with the defaults of scikit-learn."""
    from sklearn.utils.extmath import randomized_svd

    return of_arrays(*randomized_svd(matrix.numpy(), rank, random_state=0))


def by_tensorly(matrix: Tensor, rank: int) -> BoundedFactors:
    """tensorly's default on NumPy arrays."""
    from tensorly.tenalg import svd_interface

    return of_arrays(*svd_interface(matrix.numpy(), method="truncated_svd", n_eigenvecs=rank))


ROUTES: dict[str, Route] = {
    "torch.linalg.svd": by_torch,
    "lowrank": by_lowrank,
    "lowrank, float64": by_float64,
    "tensorly": by_tensorly,
    "scikit-learn randomized": by_sklearn,
    "torch.svd_lowrank": by_torch_lowrank,
}


def of_arrays(u: np.ndarray, s: np.ndarray, vh: np.ndarray) -> BoundedFactors:
    """The factors of NumPy's triplets."""
    return BoundedFactors(torch.from_numpy(u * s), torch.from_numpy(np.ascontiguousarray(vh)))


def weight(out: int, inner: int) -> tuple[Tensor, Tensor]:
    """A float32 matrix whose spectrum falls slowly, and its singular values in float64."""
    torch.manual_seed(0)
    count = min(out, inner)
    left, right = (torch.linalg.qr(torch.randn(size, count))[0] for size in (out, inner))
    matrix = left * torch.arange(1.0, count + 1) ** -0.5 @ right.T
    exact = matrix.double() if out >= inner else matrix.double().T
    return matrix, torch.linalg.eigvalsh(exact.T @ exact).flip(0).clamp_min(0).sqrt()


def excess(matrix: Tensor, values: Tensor, factors: BoundedFactors) -> float:
    """By what share of the least error of its rank the error of the factors is larger."""
    rank = factors.left.shape[1]
    error = matrix.double() - factors.left.double() @ factors.right.double()
    return float(error.norm() / values[rank:].norm()) - 1


def compare(out: int, inner: int, rounds: int, clock: Callable[[], float]) -> None:
    """Print a row for each route."""
    for route in ROUTES.values():  # Imports, and the threads of each library.
        route(torch.eye(8), 2)
    matrix, values = weight(out, inner)
    rank = out * inner // (out + inner) // 2
    print(f"{out} × {inner}, rank {rank}")
    times: dict[str, list[float]] = {name: [] for name in ROUTES}
    found: dict[str, BoundedFactors] = {}
    for _ in range(rounds):
        for name, route in ROUTES.items():
            started = clock()
            found[name] = route(matrix, rank)
            times[name].append(clock() - started)
    for name, factors in found.items():
        ratios = [a / b for a, b in zip(times["torch.linalg.svd"], times[name], strict=True)]
        row = f"  {name:24s} {statistics.median(times[name]):7.3f} s  "
        row += f"{statistics.median(ratios):6.2f} × ({min(ratios):.2f} … {max(ratios):.2f})"
        row += f"  excess {excess(matrix, values, factors):8.1e}"
        print(row + (f"  bound {factors.bound:.1e}" if factors.bound is not None else ""))


def main() -> None:
    """Run the benchmark of the command line."""
    require("this benchmark", "sklearn", "threadpoolctl")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="out x in, such as 512x512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    from threadpoolctl import threadpool_limits

    threadpool_limits(options.threads)
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    print(f"{options.threads} thread(s), {options.rounds} rounds, speed-up over torch.linalg.svd")
    for shape in options.shapes:
        out, inner = map(int, shape.split("x"))
        compare(out, inner, options.rounds, clock)


if __name__ == "__main__":
    main()
