"""Published tables beside ours: `python -m experiments.reproduce --help` says how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.composed import composed
from experiments.output import read_by_others
from experiments.required import REPORTS, require
from experiments.yaml_folders import check_own

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from experiments.reproduction.entry import Entry

EVERY = "all"
RUN = ("none", "here", "all")
RUNS_BY_DEFAULT = "here"
# Rows of a table that is kept.
MOST_NAMED = 6


@dataclass(frozen=True)
class Asked:
    """The fields of conf/reproduce/reproduce.yaml, which says what each is."""

    table: str | None
    run: str
    out: str

    def __post_init__(self) -> None:
        if self.run not in RUN:
            raise ValueError(f"run={self.run!r} must be one of {', '.join(RUN)}")
        if self.table is None and self.run != RUNS_BY_DEFAULT:
            raise ValueError(
                f"run={self.run} has no effect without a table, which shows the state of all: give "
                f"table=<name>, or table={EVERY}"
            )
        if not isinstance(self.out, str) or not self.out:
            raise ValueError(f"out={self.out!r} must be the name of a folder")


def main() -> None:
    """The reproductions of the command line; an error is one line on stderr."""
    require("lowrank reproduce", "hydra", "pydantic", *REPORTS)
    check_own()
    composed(reproduce, "reproduce")


def reproduce(config: DictConfig) -> None:
    """Run and compare the table that `config` names, or show the state of all.

    Raises:
        ValueError: an option or an entry cannot be, or a record is broken.
    """
    from experiments.reproduction import entry, overview
    from lowrank.records import store
    from lowrank.reporting.table import write

    asked = Asked(**config)  # type: ignore[arg-type]
    # All of them, so that an error in one is found before another is run.
    entries = {name: entry.load(name) for name in entry.names()}
    if asked.table not in (None, EVERY):
        entry.load(asked.table)  # of an unknown name, which says what names there are
    out = Path(asked.out)
    store.check_writable(out)
    for name in entries:
        if asked.table in (name, EVERY):
            try:
                _one(name, entries[name], asked.run, out)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
    text = overview.markdown(entries, out)
    write(out / "README.md", text)
    if asked.table is None:
        print(text)


def _one(table: str, entry: Entry, which: str, out: Path) -> None:
    from experiments.reproduction import compare, kept, orders, page, runs

    failed = []
    for name, run in entry.runs.items():
        if which == "all" or (which == "here" and not run.needs):
            try:
                runs.start(table, name, run)
            except ValueError as error:
                # What is there is compared all the same.
                failed.append(str(error))
    frames = {name: runs.frame(table, name, run) for name, run in entry.runs.items()}
    numbers = list(compare.rows(entry, frames))
    ordered = list(orders.orderings(entry, frames))
    compared = kept.frame(numbers, ordered)
    lost = kept.lost(out / f"{table}.csv", compared)
    if lost:
        print(_kept(table, out, lost))
    else:
        text = page.markdown(table, entry, numbers, ordered)
        paths = page.write(out, table, text, compared)
        print(text)
        print(f"written to {', '.join(map(str, paths))}")
    if failed:
        raise ValueError("; ".join(failed))


def _kept(table: str, out: Path, lost: list[str]) -> str:
    """Why the page of a table is left as it is."""
    from experiments.reproduction.runs import RUNS

    shown = ", ".join(lost[:MOST_NAMED]) + (" and others" if len(lost) > MOST_NAMED else "")
    return (
        f"{out / table}.md is kept as it is: it has numbers of {shown} from more seeds than there "
        f"are records of in {RUNS}. Give run=here or run=all to make these, or remove "
        f"{out / table}.csv for a page of what is there"
    )


if __name__ == "__main__":
    with read_by_others():
        main()
