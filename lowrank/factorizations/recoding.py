"""Other stored forms of the same matrix: codes and positions by an entropy coding."""

from __future__ import annotations

from torch import nn

from lowrank.factorizations.codebook import Codebook
from lowrank.factorizations.factorization import Factorization
from lowrank.factorizations.sparse import Sparse


def recoded(form: Factorization, coding: str, gap_bits: int) -> Factorization:
    """The same matrix, with the codes of its codebooks and the positions of its sparse parts coded.

    Each of them only where that is smaller, table included, than what it was: codes of fixed width
    if they are few, a bitmask or CSR (`BlockGrid.encode`) if many weights are kept.

    Args:
        form: its parts are exchanged in place.
        coding: ``"fixed"``, ``"huffman"`` or ``"ans"``.
        gap_bits: of the gaps between positions; see `GapIndex`.

    Raises:
        ValueError: a coding or bits that do not exist.
    """
    found = _recoded(form, coding, gap_bits)
    assert isinstance(found, Factorization)
    return found


def _recoded(module: nn.Module, coding: str, gap_bits: int) -> nn.Module:
    for name, child in list(module.named_children()):
        setattr(module, name, _recoded(child, coding, gap_bits))
    if isinstance(module, Codebook):
        return _smaller(module, module.recoded(coding))
    if isinstance(module, Sparse):
        return _smaller(module, module.with_gaps(gap_bits, coding))
    return module


def _smaller(old: Factorization, new: Factorization) -> Factorization:
    return new if new.nbytes < old.nbytes else old
