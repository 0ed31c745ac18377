"""The page of a reproduction: Markdown for readers, and the files beside it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.reproduction import verdict as verdicts
from experiments.reproduction.compare import RowVerdict
from experiments.reproduction.entry import READ, Entry, Value
from experiments.reproduction.orders import OrderVerdict
from experiments.reproduction.ours import Ours
from experiments.reproduction.runs import command

if TYPE_CHECKING:
    import pandas as pd

NONE = "–"
# Of more numbers the reason why they have no verdict is given once, without their names.
FEW = 6
# Numbers outside are written with an exponent.
SMALL, LARGE = 1e-3, 1e6


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
        _runs(entry, numbers, orders),
    ]
    judged = [one for one in numbers if not entry.values[one.column].setting and _is_published(one)]
    settings = [one for one in numbers if entry.values[one.column].setting and _is_published(one)]
    alone = [one for one in numbers if not _is_published(one)]
    if judged:
        shown = _tolerances(entry, judged)
        parts += [_numbers(entry, judged), _reasons(entry, judged), shown]
    if settings:
        parts += ["## Settings", _SETTINGS, _numbers(entry, settings)]
    if alone:
        parts += ["## Ours alone", _ALONE, _alone(entry, alone)]
    if orders:
        parts += ["## Orders", _ORDERS, _orders(entry, orders)]
    if entry.errors:
        parts += ["## Errors of the published table", "\n".join(f"- {e}" for e in entry.errors)]
    return "\n\n".join(part for part in parts if part) + "\n"


_SETTINGS = "What is chosen, or follows from what is: shown, and not counted as reproduced."
_ALONE = "Of these the table has no figures."
_ORDERS = (
    "A claim of another kind than a number: which of two methods is better. The models differ, so "
    "the figures need not be alike. p is of no difference on the same test examples; where several "
    "networks were trained, the larger of that and of a t test over them. It is corrected for all "
    "pairs of the order (Holm)."
)


def _is_published(one: RowVerdict) -> bool:
    return one.published == one.published


def _runs(entry: Entry, numbers: Sequence[RowVerdict], orders: Sequence[OrderVerdict]) -> str:
    lines = []
    for name, run in entry.runs.items():
        made = f"`{shlex.join(command(run))}`" if run.sweep else f"`{run.program['_target_']}`"
        needs = f" It needs {run.needs}." if run.needs else ""
        own = (
            [one.ours for one in numbers if entry.run_of(entry.rows[one.place]) is run]
            if entry.rows
            else []
        )
        for order in orders:
            if entry.run_of(entry.orderings[order.name]) is run:
                own += [member.ours for member in order.members]
        lines.append(f"- {name}: {made}; {run.takes}.{needs}{_held(own, run.weights_of)}")
    return "\n".join(lines)


def _held(found: Iterable[Ours], weights_of: str) -> str:
    """What the records say of seeds and networks."""
    held = [one for one in found if one.count]
    if not held:
        return ""
    seeds = _span(one.seeds for one in held)
    networks = _span(one.count for one in held)
    asked = _span(one.asked for one in held)
    text = f" Records of {seeds} of {asked} seeds"
    if seeds != networks:
        text += f", {networks} of them with numbers of their own"
    if any(one.is_incomplete for one in held):
        text += ": **incomplete**"
    return f"{text}." + (f" The weights are those of {weights_of}." if weights_of else "")


def _span(found: Iterable[int]) -> str:
    numbers = sorted(set(found))
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _numbers(entry: Entry, numbers: Sequence[RowVerdict]) -> str:
    lines = [
        "| row | column | published | ours | 95 % interval | difference | allowed | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in numbers:
        value, like = entry.values[one.column], one.published
        bold = f"**{one.verdict}**" if one.verdict == verdicts.REPRODUCED else one.verdict
        mark = " (from memory)" if entry.is_from_memory(one.place, one.column) else ""
        cells = [one.place, value.heading, number(like, like) + mark, ours_text(one.ours, like)]
        cells += ["set" if value.setting else interval(one.ours, value, like)]
        cells += [f"{one.difference:+.3g}" if one.ours.count else NONE, f"{one.allowed:.3g}", bold]
        lines.append(_line(cells))
    return "\n".join(lines)


def _alone(entry: Entry, alone: Sequence[RowVerdict]) -> str:
    lines = ["| row | column | ours |", "| --- | --- | ---: |"]
    for one in alone:
        heading = entry.values[one.column].heading
        lines.append(_line([one.place, heading, ours_text(one.ours, _like(one.ours))]))
    return "\n".join(lines)


def _like(ours: Ours) -> float:
    """A number with as many digits as ours is worth where none is published for it."""
    return float(f"{ours.mean:.3g}") if ours.count else 0.0


def _reasons(entry: Entry, numbers: Sequence[RowVerdict]) -> str:
    found: dict[str, list[str]] = {}
    for one in numbers:
        if one.why:
            found.setdefault(f"{one.verdict}: {one.why}", []).append(f"{one.place}, {one.column}")
    shown = {
        why: "; ".join(of) if len(of) <= FEW else f"{len(of)} numbers" for why, of in found.items()
    }
    lines = [f"- {places}: {why}." for why, places in shown.items()]
    if any(one.verdict in (verdicts.OTHERS_NEAR, verdicts.OTHERS_FAR) for one in numbers):
        lines.append(
            "- Weights that somebody else trained and published are another run of a training, "
            "not a reproduction of it: these figures are not counted as reproduced."
        )
    return "\n".join(lines)


def _tolerances(entry: Entry, numbers: Sequence[RowVerdict]) -> str:
    used = dict.fromkeys(one.column for one in numbers)
    lines = []
    for column in used:
        value = entry.values[column]
        bound = f"{100 * value.tolerance:g} %" if value.relative else f"{value.tolerance:g}"
        above = " above it, and any below" if value.at_most else ""
        lines.append(f"- {value.heading}: {bound}{above}. {value.why.strip()}")
    start = (
        "What is allowed between a published number and ours (`ours` is the mean over seeds with "
        "numbers of their own ± their standard deviation, se the standard error over examples):"
    )
    return "\n".join([start, "", *lines])


def _orders(entry: Entry, orders: Sequence[OrderVerdict]) -> str:
    lines = []
    for order in orders:
        value = entry.values[order.column]
        ordering = entry.orderings[order.name]
        dense = ordering.dense
        named = f"**{order.name}** ({value.heading}, {value.better} is better): {order.verdict}"
        if order.pairs:
            named += f", {order.agreeing} of {len(order.pairs)} pairs agree"
        if ordering.by:
            named += f"; each method at its best {ordering.tuned} by {ordering.by}"
        held = sum(member.ours.count > 0 for member in order.members)
        if 0 < held < len(order.members):
            named += f" (**incomplete**: {held} of {len(order.members)} methods are measured)"
        lines += [f"{named}.", "", "| method | published | × dense | ours | × dense |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        for one in order.members:
            theirs = f"{one.published / dense:.3g}" if dense else NONE
            own = f"{one.ours.mean / one.dense:.3g}" if one.dense == one.dense else NONE
            setting = order.settings.get(one.place)
            at = "" if setting is None else f" ({setting})"
            cells = [f"{one.place}{at}", number(one.published, one.published), theirs]
            lines.append(_line([*cells, ours_text(one.ours, _like(one.ours)), own]))
        lines.append("")
        lines += [
            f"- {pair.better} better than {pair.worse}: {_SAID[pair.agrees]} (p = {pair.p:.2g})"
            for pair in order.pairs
        ]
        lines.append("")
    return "\n".join(lines).strip()


_SAID = {True: "so here", False: "the other way here", None: "cannot be told here"}


def interval(ours: Ours, value: Value, like: float) -> str:
    """The interval of our mean; "exact" where it has no error."""
    if not ours.count:
        return NONE
    low, high = ours.interval(value)
    if low != low:
        return "not known"
    if low == high:
        return "exact" if ours.exact else "no spread"
    return f"{number(low, like)} to {number(high, like)}"


def ours_text(ours: Ours, like: float) -> str:
    """Our number, with its spread over networks and its standard error over examples."""
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
