"""The same matrix in forms whose tensors are read by plain operations, without a decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lowrank.factorizations.codebook import Codebook
from lowrank.factorizations.entropy_coded import EntropyCoded
from lowrank.factorizations.factorization import Dense, Factorization
from lowrank.factorizations.gap_index import GapIndex
from lowrank.factorizations.packing import BITS, Layout
from lowrank.factorizations.quantized import Quantized
from lowrank.factorizations.sparse import Sparse


@dataclass(frozen=True)
class WithoutDecoder:
    """A form without entropy codes.

    Attributes:
        form: the same matrix, bit for bit.
        why_dense: why a part of it is a dense matrix that was none; empty if none is.
    """

    form: Factorization
    why_dense: str


def fixed_width(form: Factorization) -> WithoutDecoder:
    """The same matrix with codes of one width, and masks of one bit for each block or CSR.

    Tools without this library's decoders run such forms. They take more bytes than entropy codes,
    and mostly far fewer than a dense matrix.

    Args:
        form: its parts are exchanged in place.
    """
    why: list[str] = []
    found = _fixed(form, why)
    assert isinstance(found, Factorization)
    return WithoutDecoder(found, "; ".join(dict.fromkeys(why)))


def _fixed(module: nn.Module, why: list[str]) -> nn.Module:
    for name, child in list(module.named_children()):
        setattr(module, name, _fixed(child, why))
    if isinstance(module, Codebook):
        return module.recoded("fixed")
    if isinstance(module, Sparse) and isinstance(module.index_form, GapIndex):
        return module.with_mask()
    if isinstance(module, EntropyCoded):
        codes = in_codes(module)
        return codes or _dense(module, why)
    return module


def _dense(form: EntropyCoded, why: list[str]) -> Dense:
    why.append("its entropy codes have no step for each row, or more than 8 bits")
    dense = Dense(form.to_dense())
    dense.requires_grad_(False)
    return dense


@torch.no_grad()
def in_codes(form: EntropyCoded) -> Quantized | None:
    """The same matrix, bit for bit, with codes of at most 8 bits and one step or one for each row;
    None if there is none, as where steps differ between columns."""
    codes, (rows, columns) = form.codes, form.shape
    low, high = min(int(codes.min()), 0), max(int(codes.max()), 0)
    bits = max((high - low).bit_length(), 2)
    if bits not in BITS:
        return None
    middle = 2 ** (bits - 1)
    is_symmetric = -low <= middle and high < middle
    zero = middle if is_symmetric else -low
    steps = form.steps
    if bool((steps.column != steps.column[0]).any()):
        return None
    # Where all rows have one step, it is stored once.
    count = 1 if bool((steps.row == steps.row[0]).all()) else rows
    factors = steps.factors(torch.promote_types(form.dtype, torch.float32))[:count, 0]
    scale = form.scaled(torch.ones_like(codes[:count, 0]), factors)
    layout = Layout((rows, columns), bits, "tensor" if count == 1 else "channel")
    zeros = None if is_symmetric else torch.full((count,), zero, device=codes.device)
    found = Quantized(layout, codes + zero, scale, zeros, form.dtype)
    return found if torch.equal(found.to_dense(), form.to_dense()) else None
