"""Files of calibration statistics, and the checks of their contents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrank.files.fields import shown
from lowrank.files.tensor_files import TensorFile, opened, write
from lowrank.model.contents import names_of

FORMAT = 3
# The fields of statistics that are tensors.
PARTS = ("columns", "rows")
# The dtypes of means; torch supports few operations on others.
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# The most characters of all notes on a layer, which a report prints.
LONGEST = 2000
# The fields of the statistics of each layer, by the layer's name.
Layers = Mapping[str, Mapping[str, Any]]


def save_statistics(path: Path, statistics: Layers, source: Mapping[str, Any]) -> None:
    """Write a safetensors file, whole or not at all; tensors that several layers share are written
    once.

    Raises:
        ValueError: statistics that `load_statistics` would refuse; the text names the layer.
        OSError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    places: dict[int, str] = {}
    layers: dict[str, dict[str, Any]] = {}
    for name, entry in statistics.items():
        _check(name, entry)
        layers[name] = {"count": entry["count"], "notes": entry["notes"]}
        for part in PARTS:
            if (tensor := entry[part]) is not None:
                place = places.setdefault(id(tensor), f"{name}.{part}")
                tensors[place] = tensor
                layers[name][part] = place
    header = {"format": FORMAT, "layers": layers, "source": dict(source)}
    write(path, tensors, "statistics", header)


def load_statistics(path: Path) -> tuple[Layers, dict[str, Any]]:
    """The statistics in a file of `save_statistics`, and their source.

    Raises:
        ValueError: it is damaged or holds something else.
        FileNotFoundError: it is not there.
    """
    with opened(path, "statistics", FORMAT, "Calibration.save") as file:
        layers, places = file.header.fields("layers"), _places(file)
        source = dict(file.header.fields("source"))
        others = {
            name: {
                "count": layers.fields(name).integer("count"),
                "notes": tuple(layers.fields(name).texts("notes")),
            }
            for name in layers
        }
        tensors, is_whole = file.read()
        statistics = {}
        for name, own in places.items():
            parts = {part: tensors[own[part]] if part in own else None for part in PARTS}
            statistics[name] = {**parts, **others[name]}
            _check(name, statistics[name])
        if not is_whole:
            raise ValueError("it is damaged: its content is not what was written")
    return statistics, source


def described_statistics(path: Path) -> tuple[list[str], dict[str, Any]]:
    """The names of the layers in a file of `save_statistics`, and their source; no numbers are
    read.

    Raises:
        ValueError: it is damaged or holds something else.
    """
    with opened(path, "statistics", FORMAT, "Calibration.save") as file:
        return list(file.header.fields("layers")), dict(file.header.fields("source"))


def _places(file: TensorFile) -> dict[str, dict[str, str]]:
    """The names of the tensors of each layer."""
    layers = file.header.fields("layers")
    found = {}
    for name in layers:
        fields = layers.fields(name)
        fields.only("count", "notes", *PARTS)
        found[name] = {p: fields.one_of(p, file.shapes.keys()) for p in PARTS if p in fields}
    used = {place for own in found.values() for place in own.values()}
    if surplus := sorted(file.shapes.keys() - used):
        raise ValueError(f"no layer has the tensors {names_of(surplus)}")
    return found


def check_said(name: str, entry: Mapping[str, Any]) -> None:
    """Raise ValueError unless count and notes have allowed values and fit the tensors."""
    count, notes = entry["count"], entry["notes"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError(f"'{name}': count={count!r} must be a number of positions")
    if not isinstance(notes, tuple) or not all(isinstance(n, str) and n for n in notes):
        raise ValueError(f"'{name}': notes={shown(notes)} must be a tuple of texts")
    if sum(map(len, notes)) > LONGEST or not all(map(str.isprintable, notes)):
        raise ValueError(
            f"'{name}': notes={shown(notes)} must be lines of text of at most {LONGEST} characters "
            "together"
        )
    given = [part for part in PARTS if entry[part] is not None]
    if not count and given:
        raise ValueError(
            f"'{name}': {' and '.join(given)} are means over count=0 positions; where nothing "
            "reached a layer there are none"
        )
    if not count and not notes:
        raise ValueError(f"'{name}': with count=0 the notes must say why nothing reached the layer")
    if count and not given:
        raise ValueError(f"'{name}': with count={count} there must be columns or rows")


def _check(name: str, entry: Mapping[str, Any]) -> None:
    """Raise ValueError unless the tensors are values that a calibration can give."""
    check_said(name, entry)
    for part in PARTS:
        values = entry[part]
        if values is None:
            continue
        shape = tuple(values.shape)
        is_square = part == "columns" and len(shape) == 2 and shape[0] == shape[1]
        if values.dtype not in DTYPES or not (len(shape) == 1 or is_square) or 0 in shape:
            raise ValueError(f"'{name}': {part} of shape {shape} {values.dtype} are no means")
        if not bool(values.isfinite().all()):
            raise ValueError(f"'{name}': {part} are not finite")
        means = values.diagonal() if is_square else values
        if bool((means < 0).any()):
            raise ValueError(f"'{name}': {part} have negative mean squares")
        if is_square and float((values - values.T).abs().max()) > 1e-4 * float(means.max()):
            raise ValueError(f"'{name}': {part} are no second moment, which is symmetric")
