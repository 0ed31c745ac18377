"""The registry of published tables: what a paper prints, and which runs of ours stand beside it."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from yaml import YAMLError

from experiments.reproduction.faults import KNOWN, said
from experiments.reproduction.ordering import Ordering, Select
from experiments.yaml_folders import CONF, own

FOLDER = "reproduction"
# How sure a published figure is, the surest first.
Read = Literal["text", "repository", "secondary", "memory"]
READ: dict[Read, str] = {
    "text": "read in the paper's text",
    "repository": "read in the authors' repository",
    "secondary": "read in a source that quotes the paper",
    "memory": "from memory, not seen: check before it is cited",
}


@dataclass(frozen=True, config=KNOWN)
class Source:
    """The publication that prints a table.

    Args:
        paper: authors, title, where and when.
        where: the table or figure, with its page if that helps.
        link: an address, or the name of a repository and a file.
        read: how its figures came here, one of `READ`.
        note: what a reader must know of that: where it was read, what could not be.
    """

    paper: str
    where: str
    link: str
    read: Read
    note: str = ""


@dataclass(frozen=True, config=KNOWN)
class Run:
    """The work that makes our numbers: a sweep, or a program of `experiments.reproduction`.

    Args:
        sweep: the arguments of ``python -m experiments.sweep``; `sweep=` or `experiment=` among
            them says where its records lie.
        program: a `Program`, by ``_target_`` and its fields.
        of: ``points``, or ``layers``: rows are then those of `lowrank.records.load_layers`, and one
            named ``total`` of each point, with the sums of all sizes.
        takes: time and machine.
        seeds: how many seeds of each point the sweep lists; a program's cases say it themselves.
        exact: whether nothing is drawn, as of given weights, so that one seed is all there is.
        weights_of: whose published weights are measured, where the table is of other weights: what
            it says of a training is then not reproduced, whatever the numbers.
        needs: what is not at hand on a machine without GPU, without the network and with the data
            sets of the tests: weights, data, a GPU, days. Empty: it runs there.
    """

    takes: str
    sweep: list[str] = field(default_factory=list)
    program: dict[str, Any] = field(default_factory=dict)
    of: Literal["points", "layers"] = "points"
    needs: str = ""
    seeds: int = 1
    exact: bool = False
    weights_of: str = ""

    def __post_init__(self) -> None:
        if self.seeds < 1 or (self.program and self.seeds > 1):
            raise ValueError(f"seeds={self.seeds} must be at least 1, and of a sweep")
        if self.exact and self.seeds > 1:
            raise ValueError("what is exact has one seed")
        if bool(self.sweep) == bool(self.program):
            raise ValueError("a run has either a sweep or a program")
        if self.program and "_target_" not in self.program:
            raise ValueError("the program of a run is named by _target_")
        if self.program and self.of == "layers":
            raise ValueError("of: layers is of sweeps: a program has its own cases")
        if self.sweep and not self.sweep_name:
            raise ValueError("the sweep of a run must have experiment=… or sweep=…")
        # An experiment may list seeds itself.
        if self.sweep and self.seeds > 1 and not {"seed", "experiment"} & self._given.keys():
            listed = ",".join(map(str, range(self.seeds)))
            raise ValueError(f"seeds={self.seeds}, but its sweep has one: add seed={listed} to it")

    @property
    def sweep_name(self) -> str:
        """The folder of the records in ``results/runs``, as conf/config.yaml has it."""
        return self._given.get("sweep", self._given.get("experiment", ""))

    @property
    def _given(self) -> dict[str, str]:
        return dict(text.split("=", 1) for text in self.sweep if "=" in text)


@dataclass(frozen=True, config=KNOWN)
class Value:
    """A column of a published table, and what it is of ours.

    Args:
        heading: with its unit.
        ours: an expression of columns of the records (`lowrank.records.load`) or of the program's
            cases, such as ``100 * (1 - top1)``.
        standard_error: the same of its standard error over examples, where the records have one.
        dense: the same of the dense model, for the ratios of an ordering.
        tolerance: the largest difference at which a number counts as reproduced, above 0.
        relative: whether the tolerance is a share of the published figure.
        at_most: whether the published figure is a bound from above, below which ours may be.
        setting: whether who reproduces the table sets it, or it follows from what is set: the
            number of weights that are kept, the bits of a code. It is shown, and not counted.
        other_examples: whether ours is measured on other examples than the published figure.
        share: whether it is a share of trials, within 0 and 1, where each seed is one trial.
        why: why this tolerance.
        better: which way is better, "lower" or "higher"; an ordering needs it.
    """

    heading: str
    ours: str
    tolerance: float
    why: str
    standard_error: str = ""
    dense: str = ""
    relative: bool = False
    at_most: bool = False
    setting: bool = False
    other_examples: bool = False
    share: bool = False
    better: Literal["lower", "higher"] | None = None

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance} must be above 0")
        if self.share and (self.standard_error or self.other_examples or self.setting):
            raise ValueError("share excludes standard_error, other_examples and setting")


@dataclass(frozen=True, config=KNOWN)
class Row:
    """A row of a published table.

    Args:
        published: column → figure; null where the table has none.
        select: column of the records → its value there, by which this row's points are found.
        run: whose records; may be left out where the table has one run.
        left: why the row is not run, in place of `select`.
        beside: columns of ours that the table has no figure of, which stand beside its figures.
        from_memory: columns whose figure is from memory, in a table that was read elsewhere.
        disputed: column → why the figure is wrong or contradicts another source.
    """

    published: dict[str, float | None] = field(default_factory=dict)
    select: Select = field(default_factory=dict)
    run: str = ""
    left: str = ""
    disputed: dict[str, str] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)
    from_memory: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if bool(self.select) == bool(self.left):
            raise ValueError("a row has either select, or left with the reason why it is not run")
        if not self.published and not self.beside:
            raise ValueError("a row has figures that are published, or columns of ours beside")
        for what, named in {"disputed": self.disputed, "from_memory": self.from_memory}.items():
            if wrong := [name for name in named if self.published.get(name) is None]:
                raise ValueError(f"{what} names {wrong[0]!r}, of which no figure is published")
        if both := [name for name in self.beside if self.published.get(name) is not None]:
            raise ValueError(f"beside names {both[0]!r}, of which a figure is published")


@dataclass(frozen=True, config=KNOWN)
class Entry:
    """A published table, and its reproduction.

    Args:
        title: on one line.
        source: the publication.
        protocol: how the published figures were measured: checkpoint, data, split, seeds, what is
            counted.
        differs: what is other in our runs.
        runs: name → what makes our numbers.
        values: name → column.
        rows: name → row, in the order of the table.
        orderings: name → ordering.
        errors: known errors of the published table.
    """

    title: str
    source: Source
    protocol: str
    differs: str
    runs: dict[str, Run]
    values: dict[str, Value]
    rows: dict[str, Row] = field(default_factory=dict)
    orderings: dict[str, Ordering] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.rows and not self.orderings:
            raise ValueError("it has neither rows nor orderings")
        for name, row in self.rows.items():
            _check_known(f"rows.{name}.published", row.published, self.values)
            _check_known(f"rows.{name}.beside", row.beside, self.values)
            if row.select:
                self._check_run(f"rows.{name}", row.run)
        for name, one in self.orderings.items():
            _check_known(f"orderings.{name}.value", [one.value], self.values)
            if self.values[one.value].better is None:
                raise ValueError(f"values.{one.value}.better is missing, which orderings need")
            self._check_run(f"orderings.{name}", one.run)

    def run_of(self, one: Row | Ordering) -> Run:
        """The run whose records a row or an ordering selects from."""
        return self.runs[one.run] if one.run else next(iter(self.runs.values()))

    def name_of(self, run: Run) -> str:
        """The name of one of the runs."""
        return next(name for name, one in self.runs.items() if one is run)

    def is_from_memory(self, row: str, column: str) -> bool:
        """Whether a figure was not seen where it is printed."""
        return self.source.read == "memory" or column in self.rows[row].from_memory

    def _check_run(self, place: str, name: str) -> None:
        if name:
            _check_known(f"{place}.run", [name], self.runs)
        elif len(self.runs) != 1:
            raise ValueError(f"{place}.run must say which of {', '.join(self.runs) or 'no runs'}")


def names() -> list[str]:
    """The tables of the registry: this project's, and those of ``./conf/reproduction``."""
    return sorted(_files())


def load(name: str) -> Entry:
    """The entry of a table.

    Raises:
        ValueError: there is none of that name, or it has a field that is not known, is missing or
            cannot be; the text names file and field.
    """
    files = _files()
    if name not in files:
        raise ValueError(f"there is no table {name!r}: there are {', '.join(sorted(files))}")
    return read(files[name])


def read(path: Path) -> Entry:
    """The entry in a file; errors as of `load`."""
    try:
        given = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        return TypeAdapter(Entry).validate_python(given)
    except ValidationError as error:
        raise ValueError(f"{path}: {said(error, Entry)}") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def _files() -> dict[str, Path]:
    folders = [CONF, *filter(None, [own()])]
    paths = [path for folder in folders for path in (folder / FOLDER).glob("*.yaml")]
    return {path.stem: path for path in paths}


def _check_known(place: str, found: Any, known: Any) -> None:
    if unknown := [one for one in found if one not in known]:
        raise ValueError(f"{place} names {unknown[0]!r}: there are {', '.join(known) or 'none'}")
