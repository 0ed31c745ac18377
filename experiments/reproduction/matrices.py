"""Matrices of known kinds, decomposed: what papers on quantizers and factorizations tabulate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import scipy.linalg
import torch
from torch import Tensor

from experiments.reproduction.programs import Program
from lowrank.decomposers import Decomposer
from lowrank.norms import IDENTITY


class MatrixKind(ABC):
    """A kind of matrix; a subclass is a frozen dataclass of its sizes."""

    @abstractmethod
    def draw(self, seed: int) -> Tensor:
        """A matrix of this kind, shape (out, in), float32."""


@dataclass(frozen=True)
class NormalMatrix(MatrixKind):
    """Entries that are the quantiles of N(0, 1), in an order drawn with the seed.

    Independent draws would have another mean squared error in each matrix; of a million of them it
    has a standard error of two thousandths, more than tables of quantizers leave open.
    """

    out: int
    into: int

    def draw(self, seed: int) -> Tensor:
        count = self.out * self.into
        values = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        return values[order].view(self.out, self.into).float()


@dataclass(frozen=True)
class HadamardMatrix(MatrixKind):
    """Sylvester's matrix of ±1 / √n, n a power of two; the same for each seed."""

    n: int

    def draw(self, seed: int) -> Tensor:
        return torch.from_numpy(scipy.linalg.hadamard(self.n)).float() / math.sqrt(self.n)


@dataclass(frozen=True)
class DecomposedMatrices(Program):
    """Matrices of a kind by each of some methods, in the identity norm.

    Measures: `relative_mse`, ‖W − Ŵ‖² / ‖W‖²; `stored_bits` of a weight, all that is stored
    counted; where there is an error, `gap`, how many bits that is above ½ log₂ 1/relative_mse, the
    least for entries from a normal distribution (Shannon, 1959); `params`; and of the values of Ŵ
    `levels`, how many differ, their `entropy` in bits, and `step`, the least distance of two in
    standard deviations of W.

    Args:
        kind: a `MatrixKind`.
        methods: name → decomposer, as a config with ``_target_``.
        seeds: how many matrices are drawn.
    """

    kind: MatrixKind
    methods: dict[str, Any]
    seeds: int = 1

    def __post_init__(self) -> None:
        wrong = [name for name, one in self.methods.items() if not isinstance(one, Decomposer)]
        if wrong:
            raise ValueError(f"methods.{wrong[0]} must be a Decomposer")

    def cases(self) -> Iterator[dict[str, Any]]:
        for name, method in self.methods.items():
            for seed in range(self.seeds):
                yield {
                    "kind": str(self.kind),
                    "method": name,
                    "decomposer": str(method),
                    "seed": seed,
                }

    def measure(self, case: Mapping[str, Any]) -> dict[str, float]:
        weight = self.kind.draw(case["seed"])
        form = self.methods[case["method"]].decompose(weight, IDENTITY)
        found = form.to_dense().detach().double()
        error = float((weight.double() - found).square().sum() / weight.double().square().sum())
        stored = 8 * form.nbytes / weight.numel()
        gap = {"gap": stored + 0.5 * math.log2(error)} if error else {}
        levels = _levels(found / weight.double().std(correction=0))
        return {
            "relative_mse": error,
            "stored_bits": stored,
            "params": form.params,
            **gap,
            **levels,
        }


def _levels(values: Tensor) -> dict[str, float]:
    levels, counts = values.unique(return_counts=True)
    shares = counts / counts.sum()
    step = float(levels.diff().min()) if len(levels) > 1 else 0.0
    return {
        "levels": len(levels),
        "entropy": float(-(shares * shares.log2()).sum()),
        "step": step,
    }
