"""Codes of few bits, packed or entropy-coded. Needs torch alone."""

from decimal import Context, Decimal, localcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Decimal digits of the computation of probabilities.
DIGITS = 20


def unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    """The first codes of bytes that hold them without gaps, lowest bit first."""
    flat = F.pad(packed.long(), (0, -len(packed) % bits)).view(-1, bits)
    steps = torch.arange(8, device=packed.device)
    words = (flat << 8 * steps[:bits]).sum(dim=1)
    return ((words[:, None] >> bits * steps) & (2**bits - 1)).flatten()[:count]


def law(linear: float, square: float, reach: int, exponent: int) -> Tensor:
    """Frequencies of −reach..reach out of 2^16, the same on every machine."""
    with localcontext(Context(prec=DIGITS)):
        quadratic = Decimal(square) / Decimal(2) ** exponent
        straight = Decimal(linear) / (Decimal(2) ** exponent).sqrt()
        weight, ratio = Decimal(1), (-straight - quadratic).exp()
        falling, weights = (-2 * quadratic).exp(), [2**60]
        while len(weights) <= reach and weights[-1]:
            weight, ratio = weight * ratio, ratio * falling
            weights.append(int(weight * 2**60))
    total, spare = 2 * sum(weights) - weights[0], 2**16 - 2 * reach - 1
    shares = [weight * spare // total for weight in weights]
    half = torch.tensor([1 + share for share in shares])
    half[0] += spare - 2 * sum(shares) + shares[0]
    found = torch.ones(2 * reach + 1, dtype=torch.int64)
    found[reach : reach + len(half)] = half
    found[reach + 1 - len(half) : reach + 1] = half.flip(0)
    return found


def decoded(stream: Tensor, context: np.ndarray, table: np.ndarray) -> Tensor:
    """The symbols of interleaved streams, one for each 2048 symbols, that take a step together."""
    below = table.cumsum(axis=1) - table
    places = np.stack([np.repeat(np.arange(len(row)), row.astype(np.int64)) for row in table])
    data, width = stream.cpu().numpy().tobytes(), max(-(-len(context) // 2048), 1)
    states = np.frombuffer(data, "<u4", width).astype(np.uint64)
    words = np.frombuffer(data, "<u2", offset=4 * width).astype(np.uint64)
    symbols, read = np.empty(len(context), dtype=np.int64), 0
    for start in range(0, len(context), width):
        where = context[start : start + width]
        state = states[: len(where)]
        place = state & 0xFFFF
        found = places[where, place.astype(np.int64)]
        state[:] = table[where, found] * (state >> 16) + place - below[where, found]
        low = np.flatnonzero(state < 2**16)
        state[low] = state[low] << 16 | words[read : read + len(low)]
        read += len(low)
        symbols[start : start + width] = found
    return torch.from_numpy(symbols)
