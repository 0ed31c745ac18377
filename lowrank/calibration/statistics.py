"""What calibration knows about the inputs of each weight, and how it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from torch import Tensor, nn

from lowrank.calibration.statistics_file import load_statistics, save_statistics
from lowrank.memo import fingerprint


class Statistics(NamedTuple):
    """Means over all positions at which a weight of shape (out, in) was used.

    Attributes:
        columns: of the inputs x: E[x xᵀ] (in, in), E[x²] (in,), or the Fisher information of the
            weight's columns (in,); None for a look-up table.
        rows: of the outputs: the share of look-ups of each row of a table, or E[g²] of the gradient
            g of the loss with respect to the output (out,); None where it was not asked for.
        count: positions; 0 for a module that only holds a weight that others share and use.
    """

    columns: Tensor | None
    rows: Tensor | None
    count: int


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


def model_fingerprint(model: nn.Module) -> str:
    """A hash of all numbers of a model, of their names and ties, and of its modules as printed.

    Buffers that are not saved count, such as the frequencies of positions; settings that no module
    prints do not.
    """
    digest = xxhash.xxh3_128(repr(model).encode())
    first: dict[int, str] = {}
    parameters = model.named_parameters(remove_duplicate=False)
    for name, tensor in chain(parameters, model.named_buffers(remove_duplicate=False)):
        same = first.setdefault(id(tensor), name)
        digest.update(f"{name} {fingerprint(tensor) if same == name else same} ".encode())
    return digest.hexdigest()
