"""VeRA as PEFT has it: one pair of random factors for all layers, of which each reads a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowrank.export.peft.config import PREFIX
from lowrank.export.peft.kinds import KINDS
from lowrank.export.peft.layer import AdaptedLayer
from lowrank.factorizations import Dense, Product, Scaled, ScaledRows
from lowrank.factorizations.adapted import taken_apart
from lowrank.model.factorized import FactorizedLayer

RIGHT, LEFT = "base_model.vera_A", "base_model.vera_B"
OUTER, INNER = "vera_lambda_b", "vera_lambda_d"
# How far a part may be from a multiple of the whole, in roundings of its largest number.
ROUNDINGS = 4


@dataclass(frozen=True)
class ScaledFactors:
    """diag(outer) · left · diag(inner) · right, the two factors frozen.

    Attributes:
        outer, left, inner, right: (out,), (out, rank), (rank,), (rank, in).
    """

    outer: Tensor
    left: Tensor
    inner: Tensor
    right: Tensor
    dropout: float


def scaled_factors(layer: FactorizedLayer) -> ScaledFactors | None:
    """The adapter of a layer, if it is trained scales of frozen factors."""
    parts = taken_apart(layer.factorization)
    (term, *more), scale, dropout = parts.terms, 1.0, 0.0
    if isinstance(term, Scaled):
        term, scale, dropout = term.term, term.scale, term.dropout
    if more or parts.lengths is not None or not isinstance(term, Product) or len(term.factors) != 2:
        return None
    left, right = term.factors
    if not (isinstance(left, ScaledRows) and isinstance(right, ScaledRows)):
        return None
    if not (isinstance(left.term, Dense) and isinstance(right.term, Dense)):
        return None
    return ScaledFactors(
        (scale * left.scale).detach(),
        left.term.weight.detach(),
        right.scale.detach(),
        right.term.weight.detach(),
        dropout,
    )


def shared_tensors(
    layers: Sequence[AdaptedLayer], forms: Mapping[str, FactorizedLayer]
) -> dict[str, Tensor] | None:
    """The tensors of a folder of VeRA; None where the layers do not share two factors.

    They share them if, of the largest factors, the others are the first rows or columns; those of
    right up to a scale, which becomes a part of the inner scales.
    """
    found = {name: scaled_factors(layer) for name, layer in forms.items()}
    own = {name: one for name, one in found.items() if one is not None}
    if len(own) < len(layers) or any(
        layer.notes or layer.kind is not KINDS["linear"] for layer in layers
    ):
        return None
    if len({(len(one.inner), one.dropout, one.left.dtype) for one in own.values()}) > 1:
        return None
    left = max((one.left for one in own.values()), key=len)
    right = max((one.right for one in own.values()), key=lambda matrix: matrix.shape[1])
    tensors = {RIGHT: right, LEFT: left}
    for name, one in own.items():
        scale = multiple_of(right[:, : one.right.shape[1]], one.right)
        if scale is None or not torch.equal(one.left, left[: len(one.left)]):
            return None
        tensors[f"{PREFIX}{name}.{OUTER}"] = one.outer
        tensors[f"{PREFIX}{name}.{INNER}"] = scale * one.inner
    return tensors


def multiple_of(whole: Tensor, part: Tensor) -> float | None:
    """The scale with scale · whole = part up to rounding; None if there is none."""
    if torch.equal(whole, part):
        return 1.0
    exact, other = whole.double(), part.double()
    scale = float((exact * other).sum() / exact.square().sum().clamp(min=1e-300))
    noise = ROUNDINGS * torch.finfo(part.dtype).eps * float(other.abs().max())
    return scale if float((scale * exact - other).abs().max()) <= noise else None


def vera_fields(tensors: Mapping[str, Tensor], dropout: float, biases: bool) -> dict[str, Any]:
    """The fields of its config."""
    return {
        "peft_type": "VERA",
        "r": tensors[LEFT].shape[1],
        "bias": "vera_only" if biases else "none",
        "vera_dropout": dropout,
        "save_projection": True,
        "projection_prng_key": 0,
        "d_initial": 0.1,
        "init_weights": True,
    }
