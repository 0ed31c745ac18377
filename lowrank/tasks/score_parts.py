"""Scores of positions, a few positions at a time: those over a large vocabulary fill memory."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

# Scores at once, 64 MB in float32; what is computed from them takes a few times as much.
AT_ONCE = 2**24


def in_parts(scores: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of scores (positions, …) with those of tensors of as many rows, some at a time."""
    rows = max(1, AT_ONCE // max(1, scores.shape[1:].numel()))
    return zip(*(each.split(rows) for each in (scores, *others)), strict=True)
