"""Checks of the numbers and tensors that a factorization is made of.

Of a tensor on the meta device, which has no numbers yet, only the dtype is checked.
"""

from __future__ import annotations

from torch import Tensor


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless a tensor holds real numbers in floating point."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, not {tensor.dtype}")


def check_numbers(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless a tensor holds finite numbers in floating point."""
    check_floating(name, tensor)
    if not tensor.is_meta and not bool(tensor.isfinite().all()):
        bad = int((~tensor.isfinite()).sum())
        raise ValueError(f"{name}: {bad} of {tensor.numel()} numbers are NaN or infinite")


def check_integers(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless a tensor holds integers."""
    if tensor.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{name} must be integers, not {tensor.dtype}: round them")


def check_range(name: str, tensor: Tensor, largest: int) -> None:
    """Raise ValueError unless integers lie in 0..largest."""
    check_integers(name, tensor)
    if not tensor.numel() or tensor.is_meta:
        return
    low, high = (int(value) for value in tensor.long().aminmax())
    if not 0 <= low <= high <= largest:
        raise ValueError(f"{name} must lie in 0..{largest}, and these lie in {low}..{high}")
