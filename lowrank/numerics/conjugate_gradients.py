"""Conjugate gradients: the least of a convex quadratic function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The number of steps that suffices when an alternation starts from its last solution.
STEPS = 15


def descend(gradient: Callable[[Tensor], Tensor], start: Tensor, steps: int = STEPS) -> Tensor:
    """Some steps of conjugate gradients down a convex quadratic function; it never rises.

    Args:
        gradient: of the function, and so affine.
    """
    point, residual = start, -gradient(start)
    flat = gradient(torch.zeros_like(start))
    direction, square = residual, residual.square().sum()
    for _ in range(steps):
        curved = gradient(direction) - flat
        bend = (direction * curved).sum()
        if not float(bend) > 0:  # At the minimum, or nothing left but rounding.
            break
        step = square / bend
        point, residual = point + step * direction, residual - step * curved
        before, square = square, residual.square().sum()
        direction = residual + (square / before) * direction
    return point
