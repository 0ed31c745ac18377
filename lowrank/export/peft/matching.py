"""How PEFT finds modules by names and patterns, and patterns that find exactly some."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lowrank.model.contents import names_of

# What a pattern may have, so that matching takes a time that grows no faster than a polynomial.
MOST_REPEATS, MOST_GROUPS, LONGEST = 3, 2, 1000
ESCAPED = re.compile(r"\\.", flags=re.DOTALL)
REPEAT = re.compile(r"[*+?{]\??")

Patterns = tuple[tuple[re.Pattern[str], Any], ...]


def targeted(targets: str | Sequence[str], names: Iterable[str]) -> list[str]:
    """The modules that ``target_modules`` means: a regular expression, or whole ends of names."""
    if isinstance(targets, str):
        pattern = re.compile(targets)
        return [name for name in names if pattern.fullmatch(name)]
    whole, ends = set(targets), tuple(f".{target}" for target in targets)
    return [name for name in names if name in whole or name.endswith(ends)]


def saved(modules: Sequence[str], names: Iterable[str]) -> list[str]:
    """The modules that ``modules_to_save`` means, which are ends of names, whole or not."""
    return [name for name in names if name.endswith(tuple(modules))]


def barred(modules: Sequence[str], names: Iterable[str]) -> list[str]:
    """The modules that ``modules_to_save`` excludes from the targets, as regular expressions."""
    patterns = [re.compile(rf"(^|.*\.){module}($|\..*)") for module in modules]
    return [name for name in names if any(pattern.match(name) for pattern in patterns)]


def number_of(name: str, stacks: Sequence[str]) -> int | None:
    """The number that ``layers_to_transform`` knows a module by: the first part of its name that is
    one, after a part of any name, or after one that ``layers_pattern`` means.

    None if it has none, or if what matched first does not hold it.
    """
    patterns = [rf"(?:^|.*?\.){stack}\.(\d+)\." for stack in stacks] or [r".*?\.[^.]*\.(\d+)\."]
    found = next((match for one in patterns if (match := re.match(one, name))), None)
    number = None if found is None else found[found.re.groups]
    return None if number is None else int(number)


def compiled(values: Mapping[str, Any]) -> Patterns:
    """A ``rank_pattern`` or ``alpha_pattern``: regular expressions of whole ends of names, and, of
    names that match none of them, the name itself."""
    ends = [(re.compile(rf"(.*\.)?({key})$"), value) for key, value in values.items()]
    others = [key for key, (end, _) in zip(values, ends, strict=True) if not end.match(key)]
    return (*ends, *((re.compile(rf"{re.escape(key)}\Z"), values[key]) for key in others))


def value_of(patterns: Patterns, name: str, default: Any) -> Any:
    """The value for a module: that of the first pattern which it matches."""
    return next((value for pattern, value in patterns if pattern.match(name)), default)


def exactly(name: str) -> str:
    """The key of a ``rank_pattern`` or ``alpha_pattern`` that means one module."""
    return f"^{re.escape(name)}"


def targets_for(wanted: Sequence[str], names: Sequence[str]) -> str | list[str]:
    """The ``target_modules`` that mean exactly these modules of all that there are.

    Full names, which other programs read best, unless they are the ends of others' too.
    """
    if set(targeted(wanted, names)) == set(wanted):
        return list(wanted)
    return f"({'|'.join(map(re.escape, wanted))})"


def check_saved(modules: Sequence[str], targets: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError unless PEFT takes exactly these modules for those that are saved whole."""
    try:
        inside = barred(modules, targets)
    except re.error:
        inside = list(modules)
    others = [name for name in saved(modules, names) if name not in modules] if modules else []
    if others or inside:
        raise ValueError(
            f"{names_of(modules)} differ from the base, so they are to be saved whole, but PEFT "
            f"knows modules by the ends of their names, and would take {names_of(others + inside)} "
            "for them: freeze them, or rename one"
        )


def check_pattern(place: str, pattern: str) -> None:
    """Raise ValueError unless a regular expression of a file is one and is matched soon.

    Args:
        place: where it stands, for errors.
    """
    plain = ESCAPED.sub("e", pattern).replace("(?:", "(")
    groups, repeats = plain.count("("), len(REPEAT.findall(plain))
    is_slow = (
        groups > MOST_GROUPS or repeats > MOST_REPEATS or (groups > 1 and len(plain) > LONGEST)
    )
    if is_slow or re.search(r"\)[*+?{]|\(\?", plain):
        raise ValueError(
            f"{place} is {pattern!r:.200}, a regular expression that may take forever: at most "
            f"{MOST_REPEATS} repetitions and {MOST_GROUPS} groups, none of them repeated, are read"
        )
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{place} is {pattern!r:.200}, no regular expression: {error}") from error
