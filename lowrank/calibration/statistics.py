"""What calibration knows about the inputs of each weight, and how it is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lowrank.atomic import replacing

# 1 was of a time when padding was found in each layer, and sometimes counted.
FORMAT = 2


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
        """Write a safetensors file, whole or not at all; shared tensors are written once."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        places: dict[int, str] = {}
        layers = {}
        for name, entry in self.statistics.items():
            layers[name] = {"count": entry.count, "note": entry.note}
            for part in ("columns", "rows"):
                tensor = getattr(entry, part)
                if tensor is not None:
                    place = places.setdefault(id(tensor), f"{name}.{part}")
                    tensors[place] = tensor.contiguous()
                    layers[name][part] = place
        header = {"format": FORMAT, "layers": layers, "source": dict(self.source)}
        with replacing(Path(path)) as file:
            save_file(tensors, file, metadata={"lowrank": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """The statistics saved at `path`.

        Raises:
            ValueError: the file is damaged or holds something else.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise ValueError(f"there is no file {path}: save statistics with Calibration.save")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is no whole safetensors file: {error}") from error
        try:
            header = json.loads(metadata["lowrank"])
            known = header["format"] == FORMAT
            layers, source = header["layers"], dict(header["source"])
            statistics = {name: _entry(layer, tensors) for name, layer in layers.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} holds no statistics saved by Calibration.save") from error
        if not known:
            raise ValueError(
                f"{path} holds statistics of format {header['format']}, and this version reads "
                f"format {FORMAT}: calibrate anew"
            )
        return cls(statistics, source)


def _entry(layer: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Statistics:
    """The statistics of a module, from what the header says of it.

    Raises:
        KeyError, TypeError, ValueError: it does not say what `Calibration.save` would.
    """
    columns, rows = (
        tensors[layer[part]] if part in layer else None for part in ("columns", "rows")
    )
    return Statistics(columns, rows, int(layer["count"]), str(layer.get("note", "")))


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
