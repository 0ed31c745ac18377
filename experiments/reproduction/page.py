"""The page of a reproduction: Markdown for readers, CSV for programs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.reproduction import compare
from experiments.reproduction.compare import OrderVerdict, Ours, RowVerdict
from experiments.reproduction.entry import READ, Entry
from experiments.reproduction.runs import command

if TYPE_CHECKING:
    import pandas as pd

NUMBER, ORDER = "number", "order"
NONE = "–"
# Of more numbers the reason why they have no verdict is given once, without their names.
FEW = 6
# Numbers outside are written with an exponent.
SMALL, LARGE = 1e-3, 1e6


def frame(numbers: Sequence[RowVerdict], orders: Sequence[OrderVerdict]) -> pd.DataFrame:
    """All that was compared, one row each; `kind` tells numbers from the members of orders."""
    import pandas as pd

    rows = [{"kind": NUMBER, "row": one.place, **_fields(one)} for one in numbers]
    for order in orders:
        rows += [
            {"kind": ORDER, "row": f"{order.name}: {one.place}", **_fields(one)}
            | {"verdict": order.verdict}
            for one in order.members
        ]
    return pd.DataFrame(rows)


def _fields(one: RowVerdict) -> dict[str, object]:
    return {
        "column": one.column,
        "published": one.published,
        "ours": one.ours.mean,
        "ours_std": one.ours.spread,
        "seeds": one.ours.count,
        "ours_se": one.ours.error,
        "ours_dense": one.dense,
        "tolerance": one.allowed,
        "verdict": one.verdict,
        "why": one.why,
    }


def markdown(
    table: str, entry: Entry, numbers: Sequence[RowVerdict], orders: Sequence[OrderVerdict]
) -> str:
    """The page."""
    source = entry.source
    parts = [
        f"# {entry.title}",
        f"{source.paper}, {source.where}: {source.link}. Figures {READ[source.read]}."
        + (f" {source.note.strip()}" if source.note else ""),
        f"**Published protocol.** {entry.protocol.strip()}",
        f"**Here.** {entry.differs.strip()}",
        f"```sh\npython -m experiments.reproduce table={table}\n```",
        _runs(entry),
    ]
    if numbers:
        parts += [_numbers(entry, numbers), _reasons(numbers), _tolerances(entry, numbers)]
    if orders:
        parts += ["## Orders", _ORDERS, _orders(entry, orders)]
    if entry.errors:
        parts += ["## Errors of the published table", "\n".join(f"- {e}" for e in entry.errors)]
    return "\n\n".join(part for part in parts if part) + "\n"


_ORDERS = (
    "A claim of another kind than a number: which of two methods is better. The models differ, so "
    "the figures need not be alike."
)


def _runs(entry: Entry) -> str:
    lines = []
    for name, run in entry.runs.items():
        made = f"`{shlex.join(command(run))}`" if run.sweep else f"`{run.program['_target_']}`"
        needs = f" It needs {run.needs}." if run.needs else ""
        lines.append(f"- {name}: {made}; {run.takes}.{needs}")
    return "\n".join(lines)


def _numbers(entry: Entry, numbers: Sequence[RowVerdict]) -> str:
    lines = [
        "| row | column | published | ours | difference | allowed | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in numbers:
        heading, like = entry.values[one.column].heading, one.published
        difference = f"{one.difference:+.3g}" if one.ours.count else NONE
        bold = f"**{one.verdict}**" if one.verdict == compare.REPRODUCED else one.verdict
        cells = [one.place, heading, number(like, like), ours_text(one.ours, like), difference]
        lines.append(_line([*cells, f"{one.allowed:.3g}", bold]))
    return "\n".join(lines)


def _reasons(numbers: Sequence[RowVerdict]) -> str:
    found: dict[str, list[str]] = {}
    for one in numbers:
        if one.why:
            found.setdefault(f"{one.verdict}: {one.why}", []).append(f"{one.place}, {one.column}")
    shown = {
        why: "; ".join(of) if len(of) <= FEW else f"{len(of)} numbers" for why, of in found.items()
    }
    return "\n".join(f"- {places}: {why}." for why, places in shown.items())


def _tolerances(entry: Entry, numbers: Sequence[RowVerdict]) -> str:
    used = dict.fromkeys(one.column for one in numbers)
    lines = []
    for column in used:
        value = entry.values[column]
        bound = f"{100 * value.tolerance:g} %" if value.relative else f"{value.tolerance:g}"
        above = " above it, and any below" if value.at_most else ""
        lines.append(f"- {value.heading}: {bound}{above}. {value.why.strip()}")
    start = "What is allowed between a published number and ours (`ours` is the mean over seeds ±"
    return "\n".join([f"{start} its standard deviation):", "", *lines])


def _orders(entry: Entry, orders: Sequence[OrderVerdict]) -> str:
    lines = []
    for order in orders:
        value = entry.values[order.column]
        dense = entry.orderings[order.name].dense
        named = f"**{order.name}** ({value.heading}, {value.better} is better): {order.verdict}"
        if order.pairs:
            named += f", {order.agreeing} of {order.pairs} pairs agree"
        lines += [f"{named}.", "", "| method | published | × dense | ours | × dense |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        for one in order.members:
            theirs = f"{one.published / dense:.3g}" if dense else NONE
            own = f"{one.ours.mean / one.dense:.3g}" if one.dense == one.dense else NONE
            cells = [one.place, number(one.published, one.published), theirs]
            lines.append(_line([*cells, ours_text(one.ours, one.published), own]))
        lines.append("")
    return "\n".join(lines).strip()


def ours_text(ours: Ours, like: float) -> str:
    """Our number, with its spread over seeds and its standard error over examples."""
    if not ours.count:
        return NONE
    text = number(ours.mean, like)
    if ours.count > 1:
        text += f" ± {number(ours.spread, like)} ({ours.count})"
    return text if ours.error != ours.error else f"{text}, se {number(ours.error, like)}"


def number(value: float, like: float) -> str:
    """A number with a digit more than the published one `like`, which itself stays as it is."""
    if value == like:
        return f"{value:g}" if SMALL <= abs(value) < LARGE or not value else f"{value:.3g}"
    if not SMALL <= abs(like) < LARGE and like:
        return f"{value:.3g}"
    decimals = len(f"{like:.10g}".partition(".")[2])
    return f"{value:.{decimals + 1}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def write(folder: Path, table: str, text: str, compared: pd.DataFrame) -> list[Path]:
    """Write ``<table>.md`` and ``<table>.csv``; their paths."""
    from lowrank.reporting.table import csv_text
    from lowrank.reporting.table import write as write_whole

    texts = {".md": text, ".csv": csv_text(compared)}
    return [write_whole(folder / f"{table}{end}", made) for end, made in texts.items()]
