"""Calibration statistics of each weight."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lowrank.calibration.statistics_file import (
    LONGEST,
    check_said,
    load_statistics,
    save_statistics,
)
from lowrank.calibration.statistics_folder import StatisticsFolder
from lowrank.files.digest import Digest
from lowrank.files.fields import shown
from lowrank.files.paths import as_path
from lowrank.model.contents import names_of


class Statistics(NamedTuple):
    """Means over all positions at which a weight of shape (out, in) was used.

    Attributes:
        columns: the moment of the inputs x, E[x xᵀ] (in, in) or E[x²] (in,), or the Fisher
            information of the weight's columns (in,); None for a look-up table.
        rows: the share of look-ups of each row of a table, or E[g²] of the gradient g of the loss
            with respect to the output (out,); None if not collected.
        count: the number of positions; 0 for a module that no example reaches, such as one that
            only holds a weight for others.
        notes: notes for a report, such as padding that counts, or why no example reaches the
            module.
    """

    columns: Tensor | None
    rows: Tensor | None
    count: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """The statistics of a model's weights on some data.

    Attributes:
        statistics: those of each module that uses a weight, by its name. Modules that always have
            the same input share their tensors.
        source: hashes of the model and the data, and the kind of the statistics.
    """

    statistics: Mapping[str, Statistics] = field(repr=False)
    source: Mapping[str, Any]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; shared tensors are written once.

        Raises:
            ValueError: statistics that `load` would refuse, or a `path` that names no file.
            OSError: the file cannot be written.
        """
        layers = {name: entry._asdict() for name, entry in self.statistics.items()}
        save_statistics(as_path(path), layers, self.source)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """The statistics saved at `path`, a file, or a folder of `lowrank.calibrate_checkpoint`,
        of which one file at a time is in memory.

        Raises:
            ValueError: a file is damaged or holds something else, or the folder has none.
            FileNotFoundError: it is not there.
        """
        place = as_path(path)
        if place.is_dir():
            folder = StatisticsFolder(place)
            if folder.source is None:
                raise ValueError(f"{place} has no statistics of lowrank.calibrate_checkpoint")
            return cls(InFolder(folder), folder.source)
        layers, source = load_statistics(place)
        return cls({name: Statistics(**fields) for name, fields in layers.items()}, source)

    def fingerprint(self) -> str:
        """A hash of what the statistics are of: the model, the data and the kind."""
        return Digest(dict(self.source)).hex()


@dataclass(frozen=True)
class InFolder(Mapping[str, Statistics]):
    """The statistics in a folder, each read when it is asked for."""

    folder: StatisticsFolder

    def __getitem__(self, name: str) -> Statistics:
        return Statistics(**self.folder[name])

    def __contains__(self, name: object) -> bool:
        return name in self.folder

    def __iter__(self) -> Iterator[str]:
        return iter(self.folder)

    def __len__(self) -> int:
        return len(self.folder)


def check_source(data: Calibration, wanted: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise ValueError unless these statistics are of the wanted model and kind; none is read.

    Args:
        wanted: the `model`, `moment` and `outputs` that their source must have.
        names: the modules that need statistics.
    """
    different = [name for name, value in wanted.items() if data.source.get(name) != value]
    if different:
        raise ValueError(
            f"these statistics differ from what is wanted in {', '.join(different)}: they are of "
            f"{ {name: data.source.get(name) for name in different} }, wanted is "
            f"{ {name: wanted[name] for name in different} }. Calibrate anew"
        )
    missing = [name for name in names if name not in data.statistics]
    if missing:
        raise ValueError(f"these statistics have none of the layers {missing}: calibrate anew")
    surplus = sorted(data.source.keys() - {*wanted, "data"})
    text = data.source.get("data", "")
    if surplus or not isinstance(text, str) or len(text) > LONGEST or not text.isprintable():
        raise ValueError(
            f"the source of these statistics has {names_of(surplus)} besides, or data that are no "
            f"hash: {shown(text)}. Calibrate anew"
        )


def check_entries(
    data: Calibration, wanted: Mapping[str, Any], names: Sequence[str], tables: Collection[str]
) -> None:
    """Raise ValueError unless the statistics of modules have what is of the wanted kind.

    Args:
        tables: those that are look-up tables, whose statistics are rows alone.
    """
    for name in names:
        entry = data.statistics[name]
        check_said(name, entry._asdict())
        if entry.count:
            _check_kind(name, entry, wanted, name in tables)


def _check_kind(name: str, entry: Statistics, wanted: Mapping[str, Any], is_table: bool) -> None:
    """Raise ValueError unless the statistics of a module have the shapes of their source's kind."""
    axes = 0 if is_table else 2 if wanted["moment"] == "full" else 1
    has_axes = 0 if entry.columns is None else entry.columns.ndim
    has_rows = is_table or wanted["outputs"]
    if has_axes == axes and (entry.rows is not None) == has_rows:
        return
    form = {0: "no columns", 1: "columns (in,)", 2: "columns (in, in)"}
    raise ValueError(
        f"'{name}': moment={wanted['moment']!r} and outputs={wanted['outputs']} make "
        f"{form[axes]} and {'rows' if has_rows else 'no rows'}, and these statistics have "
        f"{form.get(has_axes, f'columns of {has_axes} axes')} and "
        f"{'no rows' if entry.rows is None else 'rows'}: calibrate anew"
    )
