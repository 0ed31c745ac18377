"""The rows of the comparison: a peer's method, and lowrank's with at most as many bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.benchmarks.peer_methods.half_quadratic import HalfQuadratic
from experiments.benchmarks.peer_methods.llm_compressor import (
    LLMCompressorGPTQ,
    LLMCompressorPruning,
)
from experiments.benchmarks.peer_methods.method import Method, divisor_from, divisor_near
from experiments.benchmarks.peer_methods.own import Own
from experiments.benchmarks.peer_methods.svd_formulas import ASVD, SVDLLM
from experiments.benchmarks.peer_methods.torch_pruning import TorchPruning
from experiments.benchmarks.peer_methods.torchao_rounding import TorchaoRounding
from lowrank.calibration import CalibratedNorms
from lowrank.decomposers import (
    ALPS,
    GPTQ,
    HQQ,
    Chain,
    Decomposer,
    HalfPrecision,
    MagnitudePruning,
    Quantization,
    SparseGPT,
    TruncatedSVD,
)

DIAGONAL = CalibratedNorms(moment="diagonal")
# As llm-compressor calibrates: each block on the outputs of the compressed ones before it.
DIAGONAL_SEQUENTIAL = CalibratedNorms(moment="diagonal", mode="sequential")
FULL_SEQUENTIAL = CalibratedNorms(moment="full", mode="sequential")

Recipe = Callable[[int], Decomposer]
Scale = Literal["range", "mse"]


@dataclass(frozen=True)
class PeerComparison:
    """One row of the comparison: a peer's method and lowrank's.

    Attributes:
        name: of the method and its level.
        peer: the peer's own implementation.
        own: lowrank's.
        setting: what of lowrank's differs from the peer's; "" if nothing.
    """

    name: str
    peer: Method
    own: Own
    setting: str = ""


def all_cases(llm_compressor: Path | None) -> list[PeerComparison]:
    """Every row, from many bits to few within each family.

    Args:
        llm_compressor: the Python of an environment with llm-compressor; None: there is none.
    """
    return [*rounding(), *compensated(llm_compressor), *sparse(llm_compressor), *low_rank()]


def rounding() -> list[PeerComparison]:
    """Quantization without calibration."""
    row = Own(lambda _: Quantization(bits=8))
    cases = [
        PeerComparison("round to nearest, 8 bits, a scale a row", TorchaoRounding(8, None), row)
    ]
    for bits in (4, 3):
        name, peer = f"round to nearest, {bits} bits, groups of 64", TorchaoRounding(bits, 64)
        cases += [
            PeerComparison(name, peer, Own(rounded(bits, "range"))),
            PeerComparison(
                name, peer, Own(rounded(bits, "mse"), DIAGONAL), "weighted scale search"
            ),
        ]
    for bits in (4, 3):
        peer = HalfQuadratic(bits, 64)
        own = Own(half_quadratic(bits))
        cases.append(
            PeerComparison(f"HQQ, {bits} bits, groups of 64", peer, own, "scale fitted too")
        )
    return cases


def compensated(python: Path | None) -> list[PeerComparison]:
    """GPTQ, with the settings of each peer and with those of lowrank's recipe."""
    cases = []
    for bits, group, by_activation in (
        (4, 64, False),
        (3, 64, False),
        (4, 32, True),
        (3, 32, True),
    ):
        order = ", act-order" if by_activation else ""
        name = f"GPTQ, {bits} bits, groups of {group}{order}"
        peer = LLMCompressorGPTQ(python, bits, group, by_activation)
        plain = Own(compensating(bits, group, by_activation), FULL_SEQUENTIAL)
        best = Own(compensating(bits, group, True, "mse"), FULL_SEQUENTIAL)
        changed = "scale search" if by_activation else "act-order, scale search"
        cases += [PeerComparison(name, peer, plain), PeerComparison(name, peer, best, changed)]
    return cases


def sparse(python: Path | None) -> list[PeerComparison]:
    """Pruning."""
    cases = [
        PeerComparison(
            f"magnitude, {sparsity:.0%} zeros",
            TorchPruning(sparsity),
            Own(in_half(MagnitudePruning(sparsity=sparsity))),
        )
        for sparsity in (0.5, 0.7)
    ]
    wanda = MagnitudePruning(sparsity=0.5, within="row")
    peer = LLMCompressorPruning(python, "wanda", 0.5)
    cases.append(PeerComparison("Wanda, 50% zeros", peer, Own(in_half(wanda), DIAGONAL_SEQUENTIAL)))
    for name, pattern, mask in (
        ("SparseGPT, 50% zeros", "unstructured", "0:0"),
        ("SparseGPT, 50% zeros, 2:4", "2:4", "2:4"),
    ):
        peer = LLMCompressorPruning(python, "sparsegpt", 0.5, mask)
        for setting, method in sparse_gpt(pattern).items():
            own = Own(in_half(method), FULL_SEQUENTIAL)
            cases.append(PeerComparison(name, peer, own, setting))
    return cases


def low_rank() -> list[PeerComparison]:
    """Truncated SVDs in the norms of the papers."""
    factored = in_half(TruncatedSVD(compression_ratio=1 / 0.8))
    # No column compensates another, so no singular matrix needs damping.
    one_shot = CalibratedNorms(moment="full", damping=0.0)
    sequential = CalibratedNorms(moment="full", damping=0.0, mode="sequential")
    return [
        PeerComparison("ASVD, 20% fewer params", ASVD(0.8), Own(factored, DIAGONAL), "by E x²"),
        PeerComparison("SVD-LLM, 20% fewer params", SVDLLM(0.8), Own(factored, one_shot)),
        PeerComparison(
            "SVD-LLM, sequential, 20% fewer params",
            SVDLLM(0.8, sequential=True),
            Own(factored, sequential),
        ),
    ]


def rounded(bits: int, scale: Scale) -> Recipe:
    """Round to nearest in groups of 64, with zero points."""
    return lambda columns: Quantization(
        bits, group_size=divisor_near(columns, 64), symmetric=False, scale=scale
    )


def half_quadratic(bits: int) -> Recipe:
    """HQQ in groups of 64 or more that do not go on from row to row, so never more bytes."""
    return lambda columns: HQQ(bits, group_size=divisor_from(columns, 64))


def compensating(bits: int, group: int, by_activation: bool, scale: Scale = "range") -> Recipe:
    """GPTQ with zero points and levels that the weight itself gives."""
    return lambda columns: GPTQ(
        bits,
        group_size=divisor_near(columns, group),
        symmetric=False,
        scale=scale,
        order="activation" if by_activation else "natural",
    )


def sparse_gpt(pattern: str) -> dict[str, Decomposer]:
    """SparseGPT with half of the weights zero, and what lowrank has beyond it, by setting."""
    sparsity = 0.5 if pattern == "unstructured" else None
    return {
        "": SparseGPT(sparsity=sparsity, pattern=pattern, update="sequential"),
        "exact update": SparseGPT(sparsity=sparsity, pattern=pattern, update="exact"),
        "ALPS": ALPS(sparsity=sparsity, pattern=pattern),
    }


def in_half(decomposer: Decomposer) -> Recipe:
    """The decomposer for layers of any size, its values in 16 bits."""
    chain = Chain([decomposer, HalfPrecision()])
    return lambda _: chain
