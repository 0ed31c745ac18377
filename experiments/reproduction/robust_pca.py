"""Random matrices that are low rank plus sparse, taken apart by robust PCA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.reproduction.programs import Program
from lowrank.decomposers.robust_pca import GROWTH, solve


@dataclass(frozen=True)
class RobustPcaProblems(Program):
    """Exact recovery of L₀ and S₀ from L₀ + S₀.

    Measures: `error` of L, relative, and whether it is `recovered`; `rank` of L; `nonzeros` of S;
    how many singular value decompositions it took until the residual was at most the tolerance
    (`svds_to_residual`), and until the duality gap was too (`svds`); that `residual`.

    L₀ = X Yᵀ with X and Y of shape (n, rank) and entries from N(0, 1/n); S₀ is ±1, signs alike
    likely, on a support of a given size drawn from all of one size; λ = 1/√n (Candès, Li, Ma &
    Wright, Journal of the ACM 58(3), 2011, section 4.1).

    Args:
        sizes: n → number of seeds.
        ranks: rank / n.
        supports: non-zeros of S₀ / n².
        success: the largest relative error of L that counts as recovered.
        tolerance, max_iterations: as of `lowrank.RobustPCA`.
        growth, bounded: of the penalty, as of `lowrank.decomposers.robust_pca.solve`.
    """

    sizes: dict[int, int]
    ranks: list[float]
    supports: list[float]
    success: float = 1e-3
    tolerance: float = 1e-7
    max_iterations: int = 2000
    growth: float = GROWTH
    bounded: bool = True

    def cases(self) -> Iterator[dict[str, Any]]:
        # A case of the method as it is has no word of how it could be.
        other = {} if self.bounded else {"bounded": False}
        for n, seeds in self.sizes.items():
            for rank in self.ranks:
                for support in self.supports:
                    for seed in range(seeds):
                        yield {
                            "n": n,
                            "rank_share": rank,
                            "support": support,
                            "tolerance": self.tolerance,
                            "max_iterations": self.max_iterations,
                            "success": self.success,
                            "growth": self.growth,
                            **other,
                            "seed": seed,
                        }

    def measure(self, case: Mapping[str, Any]) -> dict[str, float]:
        n = case["n"]
        low_rank, sparse = problem(n, case["rank_share"], case["support"], case["seed"])
        split = solve(
            low_rank + sparse,
            sparse_weight=n**-0.5,
            tolerance=case["tolerance"],
            max_iterations=case["max_iterations"],
            growth=case["growth"],
            bounded=case.get("bounded", True),
        )
        error = float((split.left @ split.right - low_rank).norm() / low_rank.norm())
        return {
            "error": error,
            "recovered": float(error <= case["success"]),
            "rank": split.left.shape[1],
            "nonzeros": int((split.sparse != 0).sum()),
            "svds": split.iterations,
            "svds_to_residual": split.reached,
            "residual": split.residual,
        }


def problem(n: int, rank_share: float, support: float, seed: int) -> tuple[Tensor, Tensor]:
    """L₀ and S₀ (n, n), float64."""
    generator = torch.Generator().manual_seed(seed)
    shape, count = (n, round(rank_share * n)), round(support * n * n)
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    sparse = torch.zeros(n * n, dtype=torch.float64)
    signs = torch.randint(0, 2, (count,), generator=generator).double() * 2 - 1
    sparse[torch.randperm(n * n, generator=generator)[:count]] = signs
    return x @ y.T / n, sparse.view(n, n)
