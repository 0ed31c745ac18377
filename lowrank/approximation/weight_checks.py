"""Checks of the weights that methods are given, and of what they make of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowrank.factorizations import Factorization

# Weights of up to this share of the dtype's largest number cannot overflow it.
NEAR = 1 / 64
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_weight(weight: Tensor) -> None:
    """Raise ValueError unless `weight` is a finite, non-empty floating-point matrix."""
    if not isinstance(weight, Tensor):
        raise ValueError(f"a weight must be a tensor, not a {type(weight).__name__}")
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"a weight must be a non-empty matrix, not of shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"a weight must be floating point, not {weight.dtype}")
    if weight.dtype not in DTYPES:
        raise ValueError(
            f"a weight must have 16, 32 or 64 bits to be computed with, not {weight.dtype}: "
            "convert the model first, as by model.to(torch.bfloat16), with its scales if it has any"
        )
    if type(weight) not in (Tensor, nn.Parameter):
        raise ValueError(
            f"a weight must be a plain tensor, not a {type(weight).__name__}: another library "
            "has quantized or distributed it. Give the model as it was before"
        )
    if weight.is_meta:
        raise ValueError(
            "the weight is on the meta device and has no numbers: load the model's weights first, "
            "without offloading"
        )
    # A sum is finite only if all its terms are, and 20 times faster to check; one that overflows
    # decides nothing.
    if not bool(weight.sum().isfinite()) and not bool(weight.isfinite().all()):
        bad = int((~torch.isfinite(weight)).sum())
        raise ValueError(
            f"{bad} of {weight.numel()} values of a weight of shape {tuple(weight.shape)} are NaN "
            "or infinite; only finite weights can be compressed. Check the checkpoint."
        )


def check_finite(form: Factorization, weight: Tensor) -> None:
    """Raise ValueError if a factorization has values beyond the range of its dtype.

    It is multiplied out only if the weight itself has values near the end of that range.
    """
    names = [
        name
        for name, tensor in form.state_dict().items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    is_near = float(weight.abs().max()) > NEAR * torch.finfo(weight.dtype).max
    if not names and is_near and not bool(form.to_dense().isfinite().all()):
        names = ["its matrix"]
    if names:
        raise ValueError(
            f"{form.describe()} would have numbers in {names[0]} that are too large for "
            f"{weight.dtype}: compress the model in a wider dtype, or scale the weight"
        )
