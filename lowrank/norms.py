"""In which norm the error of an approximation counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Norm(ABC):
    """‖A^{1/2} (W − Ŵ) B^{1/2}‖_F for a weight W of shape (out, in)."""

    @abstractmethod
    def __call__(self, difference: Tensor) -> float:
        """The norm of a matrix of shape (out, in)."""

    def relative_error(self, weight: Tensor, approximation: Tensor) -> float:
        """‖W − Ŵ‖ / ‖W‖, summed in float64; 0 for an exact copy of a zero weight.

        Raises:
            ValueError: a zero weight that is approximated by something else.
        """
        working = torch.promote_types(weight.dtype, torch.float32)
        weight, approximation = weight.detach().to(working), approximation.detach().to(working)
        error, scale = self(weight - approximation), self(weight)
        if error == 0:
            return 0.0
        if scale == 0:
            raise ValueError("the relative error of a zero weight is not defined")
        return error / scale


@dataclass(frozen=True)
class Identity(Norm):
    """The Frobenius norm: every entry of the weight counts the same."""

    def __call__(self, difference: Tensor) -> float:
        return float(torch.linalg.vector_norm(difference, dtype=torch.float64))


IDENTITY = Identity()
