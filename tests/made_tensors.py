"""Random tensors, the same numbers every time, and the bytes that tensors take."""

import torch
from torch import Tensor, nn


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers, drawn in float64; those of one seed begin alike, whatever their shape."""
    return _normal(shape, seed).to(dtype)


def random_by_sum(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers, drawn in float64; others for every sum of the sides."""
    return _normal(shape, seed + sum(shape)).to(dtype)


def random_by_sides(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers, drawn in float64; others for every shape (out, in) of less than 100 columns,
    so that a matrix and its transpose have nothing in common."""
    return _normal(shape, seed + 100 * shape[0] + shape[-1]).to(dtype)


def random_off_zero(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, offset: float = 0.0
) -> Tensor:
    """Normal numbers about an offset, none so near 0 that float16 cannot hold its own scale."""
    numbers = _normal(shape, seed) + offset
    return (numbers + 0.02 * numbers.sign()).to(dtype)


def single(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, drawn in float32; those of one seed begin alike, whatever their shape."""
    return _normal(shape, seed, torch.float32)


def single_by_sum(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, drawn in float32; others for every sum of the sides."""
    return _normal(shape, seed + sum(shape), torch.float32)


def tensor_bytes(module: nn.Module) -> int:
    """What the tensors of a module take as they are, whichever dtype their values would fit in."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)
