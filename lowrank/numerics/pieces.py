"""How much of a matrix is computed with at once."""

from __future__ import annotations

import torch

# On a CPU what stays in its cache, on an accelerator what takes few launches.
CACHED, LAUNCHED = 2**19, 2**27


def numbers_at_once(device: torch.device) -> int:
    """How many numbers one operation takes at once on a device."""
    return CACHED if device.type == "cpu" else LAUNCHED


def matrices_at_once(numel: int, device: torch.device) -> int:
    """How many matrices of `numel` numbers go side by side through a pass over their columns.

    On a CPU as many as make a column long enough that starting an operation on it costs little.
    """
    return max(1, (2 * CACHED if device.type == "cpu" else LAUNCHED) // numel)
