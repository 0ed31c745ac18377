"""The state of all reproductions, made again from the tables that were written of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from experiments.reproduction import compare, kept, orders
from experiments.reproduction import verdict as verdicts
from experiments.reproduction.entry import READ, Entry

NUMBERS = (
    *(verdicts.REPRODUCED, verdicts.NOT_REPRODUCED, verdicts.UNDECIDED, verdicts.DISPUTED),
    *(verdicts.NOT_RUN, verdicts.CANNOT),
)
ORDERS = (
    *(orders.SAME_ORDER, verdicts.UNDECIDED, orders.OTHER_ORDER, verdicts.NOT_RUN),
    verdicts.CANNOT,
)
OTHERS = (verdicts.OTHERS_NEAR, verdicts.OTHERS_FAR)
SETTINGS = (verdicts.AS_SET, verdicts.NOT_AS_SET)
OUTDATED = "to be run again"
INCOMPLETE = "incomplete"
_START = """# Published tables beside ours

Each entry of `conf/reproduction` is a table that others published, and the run of ours that stands
beside it. This makes this page and shows it; with `table=…` it makes that of a table, with what is
missing for it:

```sh
python -m experiments.reproduce
```

A number is *reproduced* if the 95 % interval of ours, rounded to the printed digits, lies within
what its entry allows, *not reproduced* if it lies outside, *undecided* if it does neither, and
*disputed* if the table contradicts itself or its source. Of one network the interval is wide:
*incomplete* marks tables of which seeds are missing. Figures that were not seen in print are
counted apart, and so are the orders of methods: other models, the same question. What one sets
oneself, such as the share of weights that are kept, is not counted at all.
"""


@dataclass(frozen=True)
class State:
    """How many numbers and orders of tables have which verdict.

    Attributes:
        read: of the figures that were seen.
        memory: of those from memory.
        apart: of settings, and of trainings beside weights of others.
        orders: of the orders.
        run_here: how many tables have a number of ours.
        incomplete: the names of tables of which seeds are missing.
    """

    read: Counter[str] = field(default_factory=Counter)
    memory: Counter[str] = field(default_factory=Counter)
    apart: Counter[str] = field(default_factory=Counter)
    orders: Counter[str] = field(default_factory=Counter)
    run_here: int = 0
    incomplete: tuple[str, ...] = ()

    def __add__(self, other: State) -> State:
        return State(
            self.read + other.read,
            self.memory + other.memory,
            self.apart + other.apart,
            self.orders + other.orders,
            self.run_here + other.run_here,
            (*self.incomplete, *other.incomplete),
        )


def state(name: str, entry: Entry, path: Path) -> State | None:
    """The state of a table, with the verdicts made again.

    Args:
        path: its CSV.

    Returns:
        None if the CSV does not say what the entry and its own numbers say; see `kept.read`.
    """
    if not path.is_file():
        none = {run: None for run in entry.runs}
        ordered = {one.name: one.verdict for one in orders.orderings(entry, none)}
        found = kept.KeptTable(tuple(compare.rows(entry, none)), ordered, {})
    else:
        known = kept.read(entry, path)
        if known is None:
            return None
        found = known
    read, memory, apart = Counter[str](), Counter[str](), Counter[str]()
    for one in found.numbers:
        if one.verdict in OTHERS or entry.values[one.column].setting:
            apart[one.verdict] += 1
        elif one.published == one.published:
            of_memory = entry.is_from_memory(one.place, one.column)
            (memory if of_memory else read)[one.verdict] += 1
    named = (name,) if found.is_incomplete else ()
    of_orders = Counter(found.orders.values())
    return State(read, memory, apart, of_orders, int(found.has_ours), named)


def markdown(entries: Mapping[str, Entry], folder: Path) -> str:
    """The page of all tables.

    Args:
        folder: of the written tables.
    """
    states = {
        name: state(name, entry, folder / f"{name}.csv") for name, entry in sorted(entries.items())
    }
    total = sum((one for one in states.values() if one), State())
    outdated = [name for name, one in states.items() if one is None]
    said = [f"**{len(entries)} tables, {total.run_here} run here.**"]
    if total.incomplete:
        said.append(f"Incomplete, with seeds missing: {', '.join(total.incomplete)}.")
    if outdated:
        said.append(f"{OUTDATED.capitalize()}: {', '.join(outdated)}.")
    titles = {name: _title(name, entry, folder) for name, entry in entries.items()}
    parts = [_START.rstrip(), " ".join(said)]
    parts.append(_table(titles, states, total, "read", NUMBERS))
    parts += _section("Figures from memory", titles, states, total, "memory", NUMBERS)
    parts += _section("Orders of methods", titles, states, total, "orders", ORDERS)
    parts += [_apart(total), _sources(entries), _errors(entries)]
    return "\n\n".join(part for part in parts if part).rstrip() + "\n"


def _title(name: str, entry: Entry, folder: Path) -> str:
    shown = f"[{name}]({name}.md)" if (folder / f"{name}.md").is_file() else name
    return f"{shown}: {entry.title}"


def _section(
    heading: str,
    titles: Mapping[str, str],
    states: Mapping[str, State | None],
    total: State,
    which: str,
    shown: Iterable[str],
) -> list[str]:
    if not sum(getattr(total, which)[verdict] for verdict in shown):
        return []
    return [f"## {heading}", _table(titles, states, total, which, shown)]


def _table(
    titles: Mapping[str, str],
    states: Mapping[str, State | None],
    total: State,
    which: str,
    shown: Iterable[str],
) -> str:
    shown = tuple(shown)
    lines = [f"| table | {' | '.join(shown)} |", "| --- |" + " ---: |" * len(shown)]
    for name, one in states.items():
        counted = getattr(one, which) if one else Counter()
        if sum(counted[verdict] for verdict in shown):
            mark = f" (*{INCOMPLETE}*)" if one and one.incomplete else ""
            cells = [str(counted[verdict] or "") for verdict in shown]
            lines.append(f"| {titles[name]}{mark} | {' | '.join(cells)} |")
        elif one is None and which == "read":
            lines.append(f"| {titles[name]} | {OUTDATED} |" + " |" * (len(shown) - 1))
    sums = [f"**{getattr(total, which)[verdict]}**" for verdict in shown]
    return "\n".join([*lines, f"| **all** | {' | '.join(sums)} |"])


def _apart(total: State) -> str:
    """What is not counted: settings, and weights that others trained."""
    both = total.apart
    lines = []
    if sum(both[one] for one in SETTINGS):
        lines.append(
            f"- Settings, and what follows from them: {both[verdicts.AS_SET]} are as set, "
            f"{both[verdicts.NOT_AS_SET]} are not."
        )
    if sum(both[one] for one in OTHERS):
        lines.append(
            f"- Figures of a training beside weights that somebody else trained: "
            f"{both[verdicts.OTHERS_NEAR]} are near, {both[verdicts.OTHERS_FAR]} are not."
        )
    return "\n".join(["## Not counted", "", *lines]) if lines else ""


def _sources(entries: Mapping[str, Entry]) -> str:
    lines = ["## How sure the published figures are", ""]
    for read, words in READ.items():
        of = [name for name, entry in sorted(entries.items()) if entry.source.read == read]
        if of:
            lines.append(f"- {words}: {', '.join(of)}.")
    return "\n".join(lines)


def _errors(entries: Mapping[str, Entry]) -> str:
    known = [
        f"- {name}: {error}" for name, entry in sorted(entries.items()) for error in entry.errors
    ]
    return "\n".join(["## Errors of published tables", "", *known]) if known else ""
