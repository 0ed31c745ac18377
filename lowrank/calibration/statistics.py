"""What calibration knows about the inputs of each weight, and how it is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from torch import Tensor, nn

from lowrank.atomic import replacing
from lowrank.memo import fingerprint

FORMAT = 1


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
        """Write a safetensors file, whole or not at all; shared tensors are written once."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        places: dict[int, str] = {}
        layers = {}
        for name, entry in self.statistics.items():
            layers[name] = {"count": entry.count}
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

        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("lowrank", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is no whole safetensors file: {error}") from error
        if header.get("format") != FORMAT or "source" not in header:
            raise ValueError(f"{path} holds no statistics saved by Calibration.save")
        statistics = {
            name: Statistics(
                tensors.get(layer.get("columns", "")),
                tensors.get(layer.get("rows", "")),
                layer["count"],
            )
            for name, layer in header["layers"].items()
        }
        return cls(statistics, header["source"])


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
