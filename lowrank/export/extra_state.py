"""The extra state of a module (`get_extra_state`) as JSON and tensors."""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor

from lowrank.files.fields import DEEPEST, MOST_BITS, Fields, shown
from lowrank.files.tensor_files import check_storable

# Leaves room for the nesting of the structure around the state.
ALLOWED = DEEPEST - 8


def split(name: str, value: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An extra state as JSON, with nothing where a tensor was, and its tensors by name.

    Raises:
        ValueError: it holds something else; the text names it.
    """
    places: list[list[str | int]] = []
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, place: list[str | int]) -> Any:
        if isinstance(value, Tensor):
            own = f"{name}.{len(places)}"
            check_storable(own, value)
            places.append(place)
            tensors[own] = value
            return None
        if len(place) < ALLOWED and type(value) is list:
            return [plain(inner, [*place, i]) for i, inner in enumerate(value)]
        if len(place) < ALLOWED and type(value) is dict and all(type(k) is str for k in value):
            return {key: plain(inner, [*place, key]) for key, inner in value.items()}
        if not _is_plain(value):
            raise ValueError(
                f"'{name}' cannot be saved: the extra state of the module holds {shown(value)} "
                f"({type(value).__name__}) at {place}. Only JSON can be, lists and mappings of "
                "texts, true, false, null and finite numbers, and tensors in it: have "
                "get_extra_state return these"
            )
        return value

    return {"value": plain(value, []), "tensors": places}, tensors


def joined(state: Fields, tensors: list[Tensor]) -> Any:
    """The extra state that `split` took apart.

    Raises:
        FieldError: a tensor has no place in it.
    """
    value = [copy.deepcopy(state["value"])]
    for place, tensor in zip(state.sequence("tensors"), tensors, strict=True):
        inner: Any = value
        last: Any = 0
        try:
            for step in place:
                inner, last = inner[last], step
            if inner[last] is not None:
                raise TypeError("something is there")
            inner[last] = tensor
        except (KeyError, IndexError, TypeError) as error:
            state.refuse("tensors", place, f"a place in the value ({error})")
    return value[0]


def _is_plain(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value) and type(value) is float
    if type(value) is int:
        return value.bit_length() <= MOST_BITS
    if type(value) is str:
        return value.isascii() or value.encode(errors="ignore").decode() == value
    return value is None or type(value) is bool
