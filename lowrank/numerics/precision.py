"""Precision: the dtype in which to compute with a matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def working(matrix: Tensor) -> Tensor:
    """The matrix in the dtype to compute in: float32 for half precision, which has no kernels for
    SVD and loses digits elsewhere; float64 stays float64."""
    return matrix.to(torch.promote_types(matrix.dtype, torch.float32))
