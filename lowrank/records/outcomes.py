"""Outcomes of single examples, in a file beside the record of their point.

From them come standard errors, and tests of whether two points differ: the examples of two records
are paired by their hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowrank.files import tensor_files
from lowrank.files.paths import as_path
from lowrank.records.companions import OUTCOMES
from lowrank.records.files import read as read_json

KIND, FORM = "outcomes", 1
# What a model says of an example, beside the values of metrics, in tasks of one class per example.
PREDICTED, CONFIDENCE = "predicted", "confidence"
# Of the models: the arrays in the file have their names after these.
PARTS = ("dense", "compressed")
LONGEST_NAME = 200
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a dense and a compressed model did on each example of a test split, in its order.

    The mean of a metric's values, weighted by `weights`, is the metric on record, or its logarithm
    if the metric says ``average="exp"``. Values of examples with weight 0 are 0.

    Attributes:
        examples: int64 (n,), a hash of each example's input and target; no two are equal.
        weights: float64 (n,), the number of predictions of each example.
        dense, compressed: by name, float64 (n,), the metrics whose `average` is not None; and of
            tasks with one class per example "predicted" (int64) and "confidence", the largest
            probability.
        target: int64 (n,), the class of each example, if there is one.

    Raises:
        ValueError: arrays of other shapes or dtypes, a number that is not finite, weights that are
            negative or all 0, or two examples with one hash.
    """

    examples: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    dense: Mapping[str, np.ndarray] = field(repr=False)
    compressed: Mapping[str, np.ndarray] = field(repr=False)
    target: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        count = len(self)
        for name, array in self._arrays().items():
            if not isinstance(array, np.ndarray) or array.shape != (count,):
                shape = getattr(array, "shape", type(array).__name__)
                raise ValueError(f"outcomes: {name} must be ({count},) and is {shape}")
            whole = name in ("examples", "target") or name.endswith("/predicted")
            wanted = np.dtype(np.int64 if whole else np.float64)
            if array.dtype != wanted:
                raise ValueError(f"outcomes: {name} must be {wanted} and is {array.dtype}")
            if not np.isfinite(array).all():
                raise ValueError(f"outcomes: {name} holds numbers that are not finite")
        if (self.weights < 0).any() or not self.weights.sum() > 0:
            raise ValueError("outcomes: weights must be from 0, and one of them above it")
        if len(np.unique(self.examples)) < count:
            raise ValueError("outcomes: examples must be hashes of which no two are equal")

    def __len__(self) -> int:
        return len(self.examples)

    def _arrays(self) -> dict[str, np.ndarray]:
        """All arrays, by their names in the file."""
        found = {"examples": self.examples, "weights": self.weights}
        if self.target is not None:
            found["target"] = self.target
        for part in PARTS:
            found |= {f"{part}/{name}": array for name, array in getattr(self, part).items()}
        return found


def write(outcomes: Outcomes, path: str | Path) -> None:
    """Write outcomes whole or not at all.

    Values that are all 0 or 1 take a byte, other values float32, whole numbers the fewest bytes.

    Raises:
        ValueError: a value that float32 does not hold, or a name that no file can have.
        OSError: the file cannot be written.
    """
    arrays = {name: _narrow(name, array) for name, array in outcomes._arrays().items()}
    tensor_files.write(as_path(path, "path"), arrays, KIND, {"format": FORM})


def read(path: str | Path) -> Outcomes:
    """The outcomes in a file.

    Raises:
        ValueError: it is no file of outcomes, or a damaged one.
        FileNotFoundError: it is not there.
    """
    path = as_path(path, "path")
    with tensor_files.opened(path, KIND, FORM, "lowrank.records.outcomes.write") as file:
        shapes = set(file.shapes.values())
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError("outcomes must be arrays (n,) of one length")
        for name in ("examples", "weights"):
            if name not in file.shapes:
                raise ValueError(f"it lacks {name!r}")
        for name in file.shapes:
            _check_name(name)
        tensors, is_whole = file.read()
        if not is_whole:
            raise ValueError("it is damaged: its content does not match its hash")
        arrays = {name: _wide(name, tensor) for name, tensor in tensors.items()}
        parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in PARTS}
        for name in [name for name in arrays if "/" in name]:
            part, _, own = name.partition("/")
            parts[part][own] = arrays.pop(name)
        return Outcomes(arrays["examples"], arrays["weights"], **parts, target=arrays.get("target"))


def of_record(path: str | Path) -> Outcomes:
    """The outcomes of the record at `path`, such as the column ``path`` of loaded records.

    Raises:
        ValueError: there is no such record, it names no outcomes, or their file is not there or is
            none.
    """
    path = as_path(path, "path")
    try:
        record = read_json(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    name = OUTCOMES.named(record if isinstance(record, Mapping) else None)
    if name is None or OUTCOMES.key_of(name) != path.stem:
        raise ValueError(f"{path} names no outcomes of its examples: measure its point again")
    try:
        return read(path.parent / name)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} names its outcomes {name}, which is not beside it: copy it there, or measure "
            "the point again"
        ) from error


def _check_name(name: str) -> None:
    """Raise ValueError unless outcomes have an array of that name."""
    part, slash, own = name.partition("/")
    known = part in PARTS if slash else part in ("examples", "weights", "target")
    if not known or not own.isprintable() or len(name) > LONGEST_NAME or (slash and not own):
        raise ValueError(f"it holds {name[:60]!r}, which is no outcome")


def _narrow(name: str, array: np.ndarray) -> Tensor:
    """An array in the fewest bytes; see `write`."""
    values = torch.from_numpy(np.ascontiguousarray(array))
    if name == "examples":
        return values
    if not values.is_floating_point():
        return values.to(_fitting(values))
    if bool(((values == 0) | (values == 1)).all()) and name != "weights":
        return values.to(torch.bool)
    if name == "weights":
        is_whole = bool((values == values.round()).all()) and float(values.max()) < 2**31
        return values.to(_fitting(values)) if is_whole else values
    narrow = values.to(torch.float32)
    if not bool(narrow.isfinite().all()):
        raise ValueError(f"outcomes: {name} holds {float(values.abs().max()):.3g}, too large")
    return narrow


def _fitting(values: Tensor) -> torch.dtype:
    """The first of `WHOLE` that holds all of these whole numbers."""
    least, most = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    ranges = ((dtype, torch.iinfo(dtype)) for dtype in WHOLE)
    return next(dtype for dtype, own in ranges if own.min <= least and most <= own.max)


def _wide(name: str, tensor: Tensor) -> np.ndarray:
    """An array as `Outcomes` has it."""
    whole = name in ("examples", "target") or name.endswith("/predicted")
    if whole and (tensor.is_floating_point() or tensor.is_complex()):
        raise ValueError(f"{name} must be whole numbers, and is {tensor.dtype}")
    if tensor.is_complex():
        raise ValueError(f"{name} must be real numbers, and is {tensor.dtype}")
    return tensor.to(torch.int64 if whole else torch.float64).numpy()
