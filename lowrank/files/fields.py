"""Validation of untrusted JSON: every unexpected value is a FieldError that names its place."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NoReturn

# No file of this library nests deeper, or holds an integer of more bits.
DEEPEST = 64
MOST_BITS = 64
# The largest number of rows, of bytes of a tensor and the like.
LARGEST = 2**48


class FieldError(ValueError):
    """A field is not as expected; the text begins with its place."""


def parse(text: str | bytes, place: str, numbers: bool = True, once: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        place: of the text, for errors.
        numbers: whether NaN, infinity and integers beyond 64 bits are refused here.
        once: whether a name that a mapping has twice is refused; else its last value counts.

    Raises:
        FieldError: the text is not JSON as this library writes it: it has NaN, numbers or nesting
            beyond the limits, or text that cannot be encoded again.
    """

    try:
        text = text if isinstance(text, str) else text.decode()
        value = json.loads(text, object_pairs_hook=_each_once if once else None)
        _check_plain(value, numbers)
    except (ValueError, RecursionError) as error:
        raise FieldError(f"{place} is not JSON as written here: {error}") from error
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of these pairs; raises ValueError for a name that is there twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has {shown(name)} twice")
        found[name] = value
    return found


def _check_plain(value: Any, numbers: bool) -> None:
    """Raise ValueError for what Python reads and cannot work with."""
    level = [value]
    for _ in range(DEEPEST):
        for one in level:
            if isinstance(one, str):
                one.encode()
            elif numbers and isinstance(one, int) and one.bit_length() > MOST_BITS:
                raise ValueError(f"an integer of {one.bit_length()} bits")
            elif numbers and isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{one} is no number")
        nested = [one for one in level if isinstance(one, dict | list)]
        keys = [key for one in nested if isinstance(one, dict) for key in one]
        inner = [i for one in nested for i in (one.values() if isinstance(one, dict) else one)]
        level = [*keys, *inner]
        if not level:
            return
    raise ValueError(f"nested more than {DEEPEST} deep")


class Fields(Mapping[str, Any]):
    """A JSON object, its fields read by what they must be.

    Args:
        value: of any type; only a mapping has fields.
        place: of the object, for errors.

    Raises:
        FieldError: it is no object; from any method, a field is missing or not what was asked for.
    """

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, Mapping):
            raise FieldError(f"{place} must be a mapping of fields, not {shown(value)}")
        self.value = value
        self.place = place

    def __getitem__(self, name: str) -> Any:
        if name not in self.value:
            raise FieldError(f"{self.place} lacks {shown(name)}")
        return self.value[name]

    def __contains__(self, name: object) -> bool:
        return name in self.value

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field that may be missing."""
        return self.value.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.value)

    def __len__(self) -> int:
        return len(self.value)

    def integer(self, name: str, least: int = 0, most: int = LARGEST) -> int:
        """An integer in least..most; True is none."""
        return self._of(self[name], name, _is_integer(least, most), _range(least, most))

    def integers(self, name: str, count: int, least: int = 0) -> tuple[int, ...]:
        """A list of `count` integers, none below `least`."""
        values = self.sequence(name)
        if len(values) != count:
            self.refuse(name, values, f"{count} integers")
        return tuple(self._of(v, name, _is_integer(least, LARGEST), "integers") for v in values)

    def number(self, name: str, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number in [least, most]."""

        holds = _is_number(least, most)
        return float(self._of(self[name], name, holds, f"a finite number in [{least}, {most}]"))

    def numbers(self, name: str, count: int, may_lack: bool = False) -> list[Any]:
        """A list of `count` finite numbers; of numbers and null if they may lack."""
        values, is_number = self.sequence(name), _is_number(-math.inf, math.inf)
        if len(values) != count or not all(is_number(v) or may_lack and v is None for v in values):
            self.refuse(name, values, f"{count} finite numbers" + may_lack * " or null")
        return values

    def text(self, name: str) -> str:
        """A text."""
        return self._of(self[name], name, lambda v: isinstance(v, str), "a text")

    def one_of(self, name: str, allowed: Collection[str]) -> str:
        """One of these texts."""
        holds = lambda v: isinstance(v, str) and v in allowed  # noqa: E731
        return self._of(self[name], name, holds, f"one of {shown(sorted(allowed))}")

    def sequence(self, name: str) -> list[Any]:
        """A list of anything."""
        return list(self._of(self[name], name, lambda v: isinstance(v, list | tuple), "a list"))

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        return [
            self._of(v, f"{name}[{i}]", lambda v: isinstance(v, str), "a text")
            for i, v in enumerate(self.sequence(name))
        ]

    def fields(self, name: str) -> Fields:
        """An object."""
        return Fields(self[name], f"{self.place}.{name}")

    def each(self, name: str) -> list[Fields]:
        """A list of objects."""
        return [Fields(v, f"{self.place}.{name}[{i}]") for i, v in enumerate(self.sequence(name))]

    def only(self, *names: str) -> None:
        """Raise FieldError if there are others."""
        others = sorted(self.value.keys() - set(names))
        if others:
            raise FieldError(f"{self.place} has {shown(others)} besides {sorted(names)}")

    def refuse(self, name: str, value: Any, allowed: str) -> NoReturn:
        """Raise FieldError: the field `name` is `value`, and must be what `allowed` says."""
        raise FieldError(f"{self.place}.{name} is {shown(value)}: it must be {allowed}")

    def _of(self, value: Any, name: str, holds: Callable[[Any], bool], allowed: str) -> Any:
        if not holds(value):
            self.refuse(name, value, allowed)
        return value


def shown(value: Any) -> str:
    """A short text of any value, for an error."""
    return reprlib.repr(value)


def _is_number(least: float, most: float) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        is_real = isinstance(value, int | float) and not isinstance(value, bool)
        return is_real and least <= value <= most and math.isfinite(value)

    return holds


def _is_integer(least: int, most: int) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most


def _range(least: int, most: int) -> str:
    return f"an integer of at least {least}" + (f", at most {most}" if most < LARGEST else "")
