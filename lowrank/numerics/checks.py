"""Checks of hyperparameters and arguments, made before any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real


def check_integer(name: str, value: object, least: int | None = None) -> None:
    """Raise ValueError unless it is an integer, not below `least` if that is given."""
    is_allowed = isinstance(value, int) and (least is None or value >= least)
    if isinstance(value, bool) or not is_allowed:
        allowed = "an integer" if least is None else f"at least {least} and an integer"
        raise ValueError(f"{name}={value!r} must be {allowed}")


def check_number(name: str, value: object, allowed: str, holds: Callable[[float], bool]) -> None:
    """Raise ValueError unless it is a number for which `holds`, which `allowed` puts in words."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a number: it must {allowed}")
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f"{name} is beyond the range of a float, and must {allowed}") from error
    if not holds(number):
        raise ValueError(f"{name}={value} must {allowed}")


def check_one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise ValueError unless it is one of the allowed names."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {tuple(allowed)}")


def check_exactly_one(by: str, options: Mapping[str, object]) -> None:
    """Raise ValueError unless one of the options, and no other, is not None."""
    _check_given(by, options, 1)


def check_none(by: str, options: Mapping[str, object]) -> None:
    """Raise ValueError unless all of the options are None."""
    _check_given(by, options, 0)


def _check_given(by: str, options: Mapping[str, object], wanted: int) -> None:
    if sum(value is not None for value in options.values()) != wanted:
        *first, last = options
        allowed = f"{'exactly one' if wanted else 'none'} of {', '.join(first)} and {last}"
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        raise ValueError(f"{by} needs {allowed}, got {given}")


def check_list(name: str, values: object) -> None:
    """Raise ValueError unless it is a list or tuple, or another sequence that is no text."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ValueError(f"{name}={values!r} must be a list, such as [{values}]")


def check_is(name: str, value: object, kind: type, such_as: str) -> None:
    """Raise ValueError unless it is an object of a class, such as what `such_as` makes."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ValueError(
            f"{name}={value!r:.200} must be {article} {kind.__name__}, such as {such_as}"
        )


def check_flag(name: str, value: object) -> None:
    """Raise ValueError unless it is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")


def check_positive(name: str, value: object) -> None:
    """Raise ValueError unless it is a finite number above 0."""
    check_number(name, value, "be above 0 and finite", lambda x: 0 < x < math.inf)


def check_sparsity(sparsity: object) -> None:
    """Raise ValueError unless it is a share of zeros in [0, 1)."""
    check_number("sparsity", sparsity, "lie in [0, 1)", lambda x: 0 <= x < 1)


def check_ratio(compression_ratio: object) -> None:
    """Raise ValueError for a compression ratio that would enlarge the model."""
    name = "compression_ratio"
    check_number(name, compression_ratio, "be at least 1 and finite", lambda x: 1 <= x < math.inf)


def sizes_of(name: str, sizes: object) -> tuple[int, ...]:
    """One to three integers of at least 1 as a tuple; Hydra hands over a list."""
    if not isinstance(sizes, Sequence) or not 1 <= len(sizes) <= 3:
        raise ValueError(f"{name}={sizes!r} must be one to three integers of at least 1")
    for place, value in enumerate(sizes):
        check_integer(f"{name}={sizes!r}: {name}[{place}]", value, least=1)
    return tuple(sizes)


def pair_of(name: str, pair: object, least: int = 1) -> tuple[int, int]:
    """Two integers of at least `least` as a tuple; Hydra hands over a list."""
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise ValueError(f"{name}={pair!r} must be two integers of at least {least}")
    for place, value in enumerate(pair):
        check_integer(f"{name}={pair!r}: {name}[{place}]", value, least)
    return pair[0], pair[1]
