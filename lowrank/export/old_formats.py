"""Files of models in formats before the current one.

Format 2 had no other index of sparse matrices than a bitmask or columns, and no other codes of
codebooks than those of a fixed width. Format 3 named no architecture.
"""

from __future__ import annotations

import math
from typing import Any

from lowrank.files.fields import FieldError, Fields


def layers_in(header: Fields) -> list[Fields]:
    """The layers in the header of a file, as the current format describes them.

    Raises:
        FieldError: they are no list of mappings.
    """
    layers = header.each("layers")
    if header["format"] > 2:
        return layers
    try:
        return [Fields(_of_two(dict(one)), one.place) for one in layers]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FieldError(f"{header.place}.layers is not as format 2 has it: {error}") from error


def _of_two(value: Any) -> Any:
    """A description of format 2 in the words of format 3."""
    if isinstance(value, list):
        return [_of_two(one) for one in value]
    if not isinstance(value, dict):
        return value
    now = {name: _of_two(one) for name, one in value.items()}
    if now.get("type") == "Sparse":
        return now | {"index": None}
    if now.get("type") == "Codebook":
        codes = math.prod(now["shape"])
        return now | {"coding": "fixed", "stream_bytes": -(-codes * now["bits"] // 8)}
    return now
