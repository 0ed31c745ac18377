"""What calibration knows about the inputs of each weight, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lowrank.calibration.statistics_file import load_statistics, save_statistics


class Statistics(NamedTuple):
    """Means over all positions at which a weight of shape (out, in) was used.

    Attributes:
        columns: of the inputs x: E[x xᵀ] (in, in), E[x²] (in,), or the Fisher information of the
            weight's columns (in,); None for a look-up table.
        rows: of the outputs: the share of look-ups of each row of a table, or E[g²] of the gradient
            g of the loss with respect to the output (out,); None where it was not asked for.
        count: positions; 0 for a module that nothing reached, such as one that only holds a weight
            that others share and use.
        note: what a report must say of them, such as padding that counts; why nothing reached the
            module, where nothing did.
    """

    columns: Tensor | None
    rows: Tensor | None
    count: int
    note: str = ""


@dataclass(frozen=True)
class Calibration:
    """The statistics of a model's weights on some data.

    Attributes:
        statistics: by the name of the module that uses the weight. Modules that always have the
            same input share their tensors.
        source: what they come from: model and data as hashes, and what was collected.
    """

    statistics: Mapping[str, Statistics] = field(repr=False)
    source: Mapping[str, Any]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; shared tensors are written once.

        Raises:
            ValueError: statistics that could not be read again.
            OSError: the file cannot be written.
        """
        layers = {name: entry._asdict() for name, entry in self.statistics.items()}
        save_statistics(Path(path), layers, self.source)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """The statistics saved at `path`.

        Raises:
            ValueError: the file is damaged or holds something else.
            FileNotFoundError: it is not there.
        """
        layers, source = load_statistics(Path(path))
        return cls({name: Statistics(**fields) for name, fields in layers.items()}, source)


def check_source(data: Calibration, wanted: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise ValueError unless these statistics are of this model and of the kind that is wanted."""
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
