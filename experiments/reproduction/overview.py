"""The state of all reproductions, from the tables that were written of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from experiments.reproduction import compare
from experiments.reproduction.entry import READ, Entry
from experiments.reproduction.page import NUMBER, ORDER

VERDICTS = (
    *(compare.REPRODUCED, compare.NOT_REPRODUCED, compare.UNDECIDED, compare.DISPUTED),
    *(compare.NOT_RUN, compare.CANNOT, compare.SAME_ORDER, compare.OTHER_ORDER),
)
OUTDATED = "to be run again"
_START = """# Published tables beside ours

Each entry of `conf/reproduction` is a table that others published, and the run of ours that stands
beside it. This makes this page and shows it; with `table=…` it makes that of a table, with what is
missing for it:

```sh
python -m experiments.reproduce
```

A number is *reproduced* if the mean of ours over seeds differs by no more than its entry allows,
*undecided* if the seeds scatter across that bound, and *disputed* if the table contradicts itself
or its source. The orders of methods are counted apart: other models, the same question.
"""


RUN_HERE = "run here"


def counts(entry: Entry, path: Path) -> Counter[str] | None:
    """How many numbers and orders of a table have which verdict; `RUN_HERE`: how many of ours.

    Args:
        path: its CSV.

    Returns:
        None if the CSV says something else than the entry publishes.
    """
    import pandas as pd

    if not path.is_file():
        return _before_any_run(entry)
    found = pd.read_csv(path)
    numbers, orders = found[found["kind"] == NUMBER], found[found["kind"] == ORDER]
    published = [
        (name, column, float(figure))
        for name, row in entry.rows.items()
        for column, figure in row.published.items()
        if figure is not None
    ]
    shown = list(zip(numbers["row"], numbers["column"], numbers["published"], strict=True))
    named = {f"{name}: {method}" for name, one in entry.orderings.items() for method in one.of}
    if published != shown or named != {*orders["row"]}:
        return None
    rows = zip(orders["row"], orders["verdict"], strict=True)
    by_order = {row.rpartition(": ")[0]: verdict for row, verdict in rows}
    ours = Counter({RUN_HERE: sum(count > 0 for count in found["seeds"])})
    return ours + Counter(numbers["verdict"]) + Counter(by_order.values())


def _before_any_run(entry: Entry) -> Counter[str]:
    none = {name: None for name in entry.runs}
    numbers = [one.verdict for one in compare.rows(entry, none)]
    return Counter([*numbers, *(one.verdict for one in compare.orderings(entry, none))])


def markdown(entries: Mapping[str, Entry], folder: Path) -> str:
    """The page of all tables.

    Args:
        folder: of the written tables.
    """
    lines = [f"| table | {' | '.join(VERDICTS)} |", "| --- |" + " ---: |" * len(VERDICTS)]
    totals: Counter[str] = Counter()
    run_here = 0
    for name, entry in sorted(entries.items()):
        counted = counts(entry, folder / f"{name}.csv")
        shown = f"[{name}]({name}.md)" if (folder / f"{name}.md").is_file() else name
        what = f"{shown}: {entry.title}"
        if counted is None:
            lines.append(f"| {what} | {OUTDATED} |" + " |" * (len(VERDICTS) - 1))
            continue
        totals += counted
        run_here += counted[RUN_HERE] > 0
        cells = [str(counted[verdict] or "") for verdict in VERDICTS]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    sums = [f"**{totals[verdict]}**" for verdict in VERDICTS]
    lines.append(f"| **{len(entries)} tables, {run_here} run here** | {' | '.join(sums)} |")
    return "\n".join([_START, *lines, "", _sources(entries), "", _errors(entries)]).rstrip() + "\n"


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
