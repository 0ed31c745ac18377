"""A check that records of one method name differ in their level and seeds only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank.records.keys import SEED_FIELDS, VOLATILE
from lowrank.records.rows import MEASURED_PARTS

if TYPE_CHECKING:
    import pandas as pd

# Parts of the config in which all records of one method must agree, whatever their level.
ALIKE = ("task.", "where.", "recovery.", "norm.")
# Parts whose fields are alternatives: where one is given, the level is of another kind.
ALTERNATIVES = ("method.",)
NULL = "null"
# The number of fields, and of values of each, that an error names.
MOST = 4


def one_meaning(frame: pd.DataFrame) -> None:
    """Check that the records of each method differ in their level and their seeds only.

    The name of a method does not contain all its hyperparameters, nor the layers it compressed.
    Records that differ in these would be drawn as one curve.

    Raises:
        ValueError: the records of a method differ in another field; the text names it.
    """
    settings: Any = frame[[name for name in frame if _is_setting(str(name))]].map(_text)
    varied = settings.loc[:, settings.nunique() > 1]
    suspect: Any = frame[frame["method"].isin(list(_suspects(frame, varied)))]
    groups: Any = suspect.groupby("method", dropna=False)
    for method, rows in groups:
        texts = varied.loc[rows.index]
        alike = [name for name in texts if name.startswith(ALIKE)]
        _refuse(method, _differing(texts[alike]), "")
        choices = texts[[name for name in texts if name.startswith(ALTERNATIVES)]]
        _refuse(method, _differing(choices.where(choices == NULL, "given")), "")
        for level, at_level in rows.groupby("level", dropna=False):
            if at_level["point"].nunique() > 1:
                _refuse(method, _differing(texts.loc[at_level.index]), f" at level {level}")


def _suspects(frame: Any, varied: Any) -> set[Any]:
    """The methods whose records differ in something, of which few tables have one."""
    alike = varied[[name for name in varied if name.startswith(ALIKE)]]
    choices = varied[[name for name in varied if name.startswith(ALTERNATIVES)]] == NULL
    found: set[Any] = set()
    for texts in (alike, choices):
        counts = texts.groupby(frame["method"].to_numpy(), dropna=False).nunique()
        found |= set(counts.index[(counts > 1).any(axis=1)])
    points = frame.groupby(["method", "level"], dropna=False)["point"].nunique()
    return found | set(points.index.get_level_values("method")[points > 1])


def _is_setting(column: str) -> bool:
    """Whether a column of the records is a field of the config that tells points apart."""
    part, dot, name = column.partition(".")
    outside = {*MEASURED_PARTS} | VOLATILE
    volatile = part in outside or (part == "config" and name in VOLATILE)
    return bool(dot) and not volatile and column.rpartition(".")[2] not in SEED_FIELDS


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN: the record lacks the field
        return NULL
    return f"{value:g}" if isinstance(value, float) else str(value)


def _differing(texts: Any) -> dict[str, list[str]]:
    """Columns with more than one value, and their values."""
    found = {name: sorted(texts[name].unique()) for name in texts}
    return {name: values for name, values in found.items() if len(values) > 1}


def _refuse(method: str, fields: dict[str, list[str]], where: str) -> None:
    """Raise ValueError if there are fields in which records of a method differ."""
    shown = [f"{name[:80]} ({_some([one[:60] for one in v])})" for name, v in fields.items()]
    if shown:
        raise ValueError(
            f"the records of method {method!r}{where} differ in {_some(shown, '; ')}, and would be "
            "drawn as one curve. Name them apart in the sweep (method_name=...), sweep them into "
            "folders of their own, or select some of the rows."
        )


def _some(texts: list[str], between: str = ", ") -> str:
    """The first of them, and how many more there are."""
    more = f"{between}… {len(texts) - MOST} more" if len(texts) > MOST else ""
    return between.join(texts[:MOST]) + more
