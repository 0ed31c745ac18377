"""What the fields of an entry of the registry may be, and what is wrong, naming the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, ValidationError

# An error is a field that is not known, and a NaN or Inf: it would be no figure, or allow any.
KNOWN = ConfigDict(extra="forbid", allow_inf_nan=False)


def said(error: ValidationError, kind: type) -> str:
    """All that is wrong with what was read as a dataclass `kind`, on one line."""
    return "; ".join(_said(fault, kind) for fault in error.errors())


def _said(fault: Any, kind: type) -> str:
    loc = fault["loc"]
    place = ".".join(map(str, loc))
    match fault["type"]:
        case "missing":
            return f"{place} is missing"
        case "unexpected_keyword_argument":
            known = ", ".join(_known(kind, loc[:-1]))
            inside = ".".join(map(str, loc[:-1])) or "it"
            return f"{inside} has no field {loc[-1]!r}: there are {known}"
        case "value_error":
            return f"{place}: {fault['ctx']['error']}".removeprefix(": ")
        case "dataclass_type":
            known = ", ".join(_known(kind, loc))
            return f"{place or 'it'} must be a mapping of {known}, and is {fault['input']!r:.80}"
    text = f"{fault['msg'][0].lower()}{fault['msg'][1:]}"
    return f"{place}: {text}, and is {fault['input']!r:.80}"


def _known(kind: Any, loc: Sequence[Any]) -> list[str]:
    """The fields of the dataclass at a place in `kind`."""
    for part in loc:
        # Of a mapping or a list: what its values are.
        kind = get_type_hints(kind)[part] if is_dataclass(kind) else get_args(kind)[-1]
    return [field.name for field in fields(kind)]
