"""Frozen dataclasses from untrusted JSON in the form that `dataclasses.asdict` gives."""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lowrank.files.fields import FieldError, Fields, shown

T = TypeVar("T")
WORDS = {int: "an integer", float: "a finite number", str: "a text", bool: "true or false"}


def built(cls: type[T], given: Fields) -> T:
    """A dataclass of plain values, of lists and mappings of them, and of other such dataclasses.

    Raises:
        FieldError: a field is missing, unknown or of another type; the text names its place.
    """
    own, hints = fields(cls), get_type_hints(cls)  # type: ignore[arg-type]
    given.only(*(field.name for field in own))
    values = {}
    for field in own:
        has_default = field.default is not MISSING or field.default_factory is not MISSING
        if field.name in given or not has_default:
            place = f"{given.place}.{field.name}"
            values[field.name] = _as(hints[field.name], given[field.name], place)
    return cls(**values)


def _as(kind: Any, value: Any, place: str) -> Any:
    """A value of JSON as what a type hint says."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (other,) = (one for one in inner if one is not types.NoneType)
        return None if value is None else _as(other, value, place)
    if origin is Literal:
        return _one_of(value, inner, place)
    if origin is tuple:
        return _items(inner, value, place)
    if origin is list:
        return list(_items((*inner, ...), value, place))
    if origin is dict:
        mapping = Fields(value, place)
        return {name: _as(inner[1], mapping[name], f"{place}.{name}") for name in mapping}
    if is_dataclass(kind):
        return built(kind, Fields(value, place))  # type: ignore[arg-type]
    allowed = int | float if kind is float else kind
    is_wrong = not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool)
    if is_wrong or (kind is float and not math.isfinite(value)):
        raise FieldError(f"{place} is {shown(value)}: it must be {WORDS[kind]}")
    return float(value) if kind is float else value


def _one_of(value: Any, allowed: tuple[Any, ...], place: str) -> Any:
    if not isinstance(value, str) or value not in allowed:
        raise FieldError(f"{place} is {shown(value)}: it must be one of {allowed}")
    return value


def _items(kinds: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise FieldError(f"{place} is {shown(value)}: it must be a list")
    if kinds[1:] == (...,):
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise FieldError(f"{place} is {shown(value)}: it must be a list of {len(kinds)}")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_as(kind, one, f"{place}[{i}]") for i, (kind, one) in pairs)
