"""The data of the explorer: the comparisons of a folder of records as plain lists and mappings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.records.columns import metrics_of, usual_size
from lowrank.records.files import read
from lowrank.records.repeats import POINT, of_their_own
from lowrank.reporting.captions import subject
from lowrank.reporting.curves import first_measure, norms_in_order
from lowrank.reporting.explorer.axes import axes

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("key", "method", "family", "norm", "recovery", "seed")
LAYER = ("name", "kind", "factorization", "note", "dense_bytes", "bytes", "bits_per_weight")
ERRORS = ("relative_error", "norm_error")
# Significant digits, of what is read off a page and of the errors of layers.
DIGITS, ERROR_DIGITS = 7, 4
# Parts of a record that are shown as they are.
SHOWN = ("config", "protocol", "environment", "timings")


@dataclass(frozen=True)
class Command:
    """The command that measures a point again, or the reason why there is none.

    Args:
        text: for a shell; None for none.
        reason: why there is none.
    """

    text: str | None
    reason: str = ""


NO_COMMAND = Command(None, "the page was made without commands")


def comparison(
    name: str, frame: pd.DataFrame, layers: pd.DataFrame, commands: Mapping[str, Command]
) -> dict[str, Any]:
    """One comparison: what can be an axis, and each of its records.

    Columns of measures are lists in the order of the records, null where a record has no value.

    Args:
        name: of the comparison, such as ``digits-mlp``.
        frame: rows of one of `lowrank.reporting.curves.comparisons`.
        layers: rows of `lowrank.records.store.load_layers` of these records.
        commands: by the key of a record what measures it again, or why nothing does.

    Raises:
        ValueError: a record is not there any more, or no record holds a measure of quality.
    """
    frame = frame.reset_index(drop=True)
    measures = axes(frame)
    names = [axis["name"] for axis in measures]
    own = set(of_their_own(frame).index)
    groups: Any = frame.groupby(list(POINT), dropna=False, sort=False).ngroup()
    records = [
        {label: _plain(row[label]) for label in LABELS}
        | {"level": _number(row["level"]), "group": int(groups[index]), "own": index in own}
        | _said(commands.get(row["key"], NO_COMMAND))
        for index, row in enumerate(frame.to_dict("records"))
    ]
    return {
        "name": name,
        "title": subject(frame),
        "x": usual_size(frame),
        "y": first_measure(frame),
        "axes": measures,
        "norms": norms_in_order(frame["norm"]),
        "records": records,
        "values": {name: _column(frame, name) for name in names},
        "errors": _held({name: _column(frame, f"{name}_se") for name in names}),
        "denses": _held({name: _column(frame, f"dense_{name}") for name in names}),
        "documents": [_document(path) for path in frame["path"]],
        "layers": _layers(layers, list(frame["path"])),
        "primary": next(iter(metrics_of(frame))),
    }


def _said(command: Command) -> dict[str, str | None]:
    return {"command": command.text, "reason": command.reason}


def _document(path: str) -> dict[str, Any]:
    """The parts of a record that a page shows as they are."""
    try:
        record = read(Path(path))
    except OSError as error:
        raise ValueError(f"{path} is not there any more: make the report again") from error
    return {name: record[name] for name in SHOWN if record.get(name)}


def _layers(layers: pd.DataFrame, paths: Sequence[str]) -> list[dict[str, list[Any]]]:
    """Of each record its layers, a list for each of their fields."""
    by_path = dict(iter(layers.groupby("path", sort=False)))
    return [_fields(by_path[path]) if path in by_path else {} for path in paths]


def _fields(rows: pd.DataFrame) -> dict[str, list[Any]]:
    held = [name for name in LAYER if name in rows]
    plain = {name: [_plain(value) for value in rows[name]] for name in held}
    shapes = [f"{out} × {into}" for out, into in zip(rows["out"], rows["in"], strict=True)]
    errors = {
        name: [_number(value, ERROR_DIGITS) for value in rows[name]]
        for name in ERRORS
        if name in rows
    }
    return plain | {"shape": shapes} | errors


def _column(frame: pd.DataFrame, name: str) -> list[float | int | None]:
    return [_number(value) for value in frame[name]] if name in frame else []


def _held(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        name: values
        for name, values in columns.items()
        if any(value is not None for value in values)
    }


def _number(value: Any, digits: int = DIGITS) -> float | int | None:
    """A number: whole ones with all digits, others with few; None for none."""
    if value is None or value != value or not math.isfinite(value):
        return None
    whole = float(value).is_integer() and abs(value) < 2**53
    return int(value) if whole else float(f"{float(value):.{digits}g}")


def _plain(value: Any) -> Any:
    """A value of a data frame as JSON holds it."""
    return value if isinstance(value, str | bool) else _number(value)
