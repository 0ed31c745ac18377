"""What was compared, as a table for programs, from which every verdict can be made again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.reproduction.compare import RowVerdict, figures, judged
from experiments.reproduction.entry import Entry
from experiments.reproduction.orders import OrderedPair, OrderVerdict, judged_order
from experiments.reproduction.ours import Ours

if TYPE_CHECKING:
    import pandas as pd

NUMBER, ORDER, PAIR = "number", "order", "pair"
COLUMNS = (
    *("kind", "row", "column", "published", "ours", "ours_std", "networks", "seeds"),
    *("seeds_asked", "exact", "ours_se", "ours_dense", "tolerance", "p", "verdict", "why"),
)
NUMBERS = (
    *("published", "ours", "ours_std", "networks", "seeds", "seeds_asked"),
    *("ours_se", "ours_dense", "tolerance", "p"),
)
COUNTS = ("networks", "seeds", "seeds_asked")
MOST = 1e9
# Between the name of an order and that of its method, and between the methods of a pair.
COLON, BETTER = ": ", " > "


@dataclass(frozen=True)
class KeptTable:
    """What a table says of an entry, with the verdicts made again.

    Attributes:
        numbers: as of `experiments.reproduction.compare.rows`.
        orders: name → verdict.
        members: order → ours of its methods.
    """

    numbers: tuple[RowVerdict, ...]
    orders: Mapping[str, str]
    members: Mapping[str, tuple[Ours, ...]]

    @property
    def is_incomplete(self) -> bool:
        """Whether a number lacks seeds that the entry asks for, or an order some methods."""
        held = [[one.count > 0 for one in of] for of in self.members.values()]
        in_part = any(any(of) and not all(of) for of in held)
        return in_part or any(one.is_incomplete for one in self._ours())

    @property
    def has_ours(self) -> bool:
        """Whether something was measured."""
        return any(one.count for one in self._ours())

    def _ours(self) -> Iterable[Ours]:
        members = itertools.chain.from_iterable(self.members.values())
        return (*(one.ours for one in self.numbers), *members)


def frame(numbers: Iterable[RowVerdict], orders: Iterable[OrderVerdict]) -> pd.DataFrame:
    """All that was compared, one row each; `kind` tells numbers, members of orders and pairs."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for one in numbers:
        rows.append({"kind": NUMBER, "row": one.place, **_fields(one)})
    for order in orders:
        for one in order.members:
            named = {"kind": ORDER, "row": f"{order.name}{COLON}{one.place}"}
            rows.append(named | _fields(one) | {"verdict": order.verdict})
        for pair in order.pairs:
            named = f"{order.name}{COLON}{pair.better}{BETTER}{pair.worse}"
            own = {"kind": PAIR, "row": named, "column": order.column}
            rows.append(own | {"ours": pair.gain, "p": pair.p, "verdict": order.verdict})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _fields(one: RowVerdict) -> dict[str, object]:
    return {
        "column": one.column,
        "published": one.published,
        "ours": one.ours.mean,
        "ours_std": one.ours.spread,
        "networks": one.ours.count,
        "seeds": one.ours.seeds,
        "seeds_asked": one.ours.asked,
        "exact": one.ours.exact,
        "ours_se": one.ours.error,
        "ours_dense": one.dense,
        "tolerance": one.allowed,
        "verdict": one.verdict,
        "why": one.why,
    }


def read(entry: Entry, path: Path) -> KeptTable | None:
    """What a written table says, with the verdicts made again from its numbers and the entry.

    Returns:
        None if the table is of other figures, tolerances or rules than the entry has now: of other
        rows, or with other verdicts than these numbers have; or if it is damaged.
    """
    found = _table(path)
    if found is None or tuple(found) != COLUMNS:
        return None
    rows = found.to_dict("records")
    numbers = tuple(_number(entry, row) for row in rows if row["kind"] == NUMBER)
    orders, members = _orders(entry, rows)
    kept = KeptTable(numbers, orders, members)
    return kept if _is_of(entry, rows, kept) else None


def lost(path: Path, compared: pd.DataFrame) -> list[str]:
    """The rows of a written table that are of more seeds than they are in `compared`, by name.

    Rows that are not compared any more do not count, nor does a table that is damaged.

    Args:
        compared: as of `frame`.
    """
    written = _table(path) if path.is_file() else None
    if written is None or not {"row", "column", "seeds"} <= set(written):
        return []
    now = compared.set_index(["row", "column"])["seeds"].fillna(0)
    before = written.set_index(["row", "column"])["seeds"].fillna(0)
    fewer = [place for place, seeds in before.items() if place in now and seeds > max(now[[place]])]
    return list(dict.fromkeys(str(row) for row, _ in fewer))  # type: ignore[misc]


def _table(path: Path) -> pd.DataFrame | None:
    """The rows of a written table; None if it is damaged."""
    import pandas as pd

    try:
        found = pd.read_csv(path, keep_default_na=True)
        given = [name for name in NUMBERS if name in found]
        found = found.astype(dict.fromkeys(given, float))
        counts = found.reindex(columns=list(COUNTS)).loc[found["kind"].isin((NUMBER, ORDER))]
    except (ValueError, KeyError):  # Of pandas' parser and of UTF-8 too.
        return None
    is_whole = (counts >= 0) & (counts < MOST)
    return found if is_whole.all(axis=None) else None


def _is_of(entry: Entry, rows: list[dict[Any, Any]], kept: KeptTable) -> bool:
    shown = [row for row in rows if row["kind"] == NUMBER]
    named = [(name, column) for name, _, column in figures(entry)]
    if named != [(row["row"], row["column"]) for row in shown]:
        return False
    alike = all(
        row["verdict"] == one.verdict and _same(row["published"], one.published)
        for row, one in zip(shown, kept.numbers, strict=True)
    )
    methods = {f"{name}{COLON}{m}" for name, one in entry.orderings.items() for m in one.of}
    others = [row for row in rows if row["kind"] != NUMBER]
    same_methods = methods == {row["row"] for row in others if row["kind"] == ORDER}
    published = all(
        _same(row["published"], entry.orderings[order].of[method].published)
        for row in others
        if row["kind"] == ORDER and same_methods
        for order, method in [_split(entry, row["row"])]
    )
    same = all(row["verdict"] == kept.orders.get(_split(entry, row["row"])[0]) for row in others)
    return alike and same_methods and published and same


def _same(one: float, other: float) -> bool:
    return one == other or (one != one and other != other)


def _number(entry: Entry, row: Mapping[Any, Any]) -> RowVerdict:
    known = {(name, column) for name, _, column in figures(entry)}
    at = str(row["row"]), str(row["column"])
    if at not in known:
        return RowVerdict(*at, row["published"], _ours(row), row["tolerance"], row["verdict"])
    return judged(entry, *at, _ours(row))


def _orders(
    entry: Entry, rows: list[dict[Any, Any]]
) -> tuple[Mapping[str, str], Mapping[str, tuple[Ours, ...]]]:
    pairs: dict[str, list[OrderedPair]] = {name: [] for name in entry.orderings}
    members = {
        name: tuple(
            _ours(row)
            for row in rows
            if row["kind"] == ORDER and _split(entry, row["row"])[0] == name
        )
        for name in entry.orderings
    }
    for row in rows:
        name, methods = _split(entry, row["row"])
        if row["kind"] == PAIR and name in pairs:
            better, _, worse = methods.partition(BETTER)
            pairs[name].append(OrderedPair(better, worse, row["ours"], row["p"]))
    orders = {name: judged_order(entry, one, pairs[name]) for name, one in entry.orderings.items()}
    return orders, members


def _split(entry: Entry, row: str) -> tuple[str, str]:
    """The order that a row is of, and what follows its name."""
    for name in entry.orderings:
        if str(row).startswith(name + COLON):
            return name, str(row)[len(name + COLON) :]
    return "", ""


def _ours(row: Mapping[Any, Any]) -> Ours:
    return Ours(
        mean=row["ours"],
        spread=row["ours_std"],
        count=int(row["networks"]),
        error=row["ours_se"],
        seeds=int(row["seeds"]),
        asked=int(row["seeds_asked"]),
        exact=str(row["exact"]) == "True",
    )
