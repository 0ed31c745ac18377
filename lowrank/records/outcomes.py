"""Outcomes of single examples, in a file beside the record of their point.

From them come standard errors, and tests of whether two points differ: the examples of two records
are paired by their hashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowrank.files import tensor_files
from lowrank.files.fields import Fields
from lowrank.files.paths import as_path
from lowrank.records.companions import OUTCOMES
from lowrank.records.files import read as read_json
from lowrank.records.parts import BREAKDOWN, CONTINUATIONS, Breakdown, Continuations, check_array
from lowrank.records.tied import check_tied

KIND, FORM = "outcomes", 1
# What a model says of an example, beside the values of metrics, in tasks of one class per example.
PREDICTED, CONFIDENCE = "predicted", "confidence"
# Of the models: the arrays in the file have their names after these.
PARTS = ("dense", "compressed")
# Before the names of arrays that are of other shapes.
BY, TEXTS = "breakdown", "continuations"
TEXTS_HELD = tuple(f"{TEXTS}/{name}" for name in CONTINUATIONS)
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
        breakdowns: by name, the losses by groups of the predictions.
        continuations: of prompts by both models, where they were measured.

    Raises:
        ValueError: arrays of other shapes or dtypes, a number that is not finite, weights that are
            negative or all 0, or two examples with one hash.
    """

    examples: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    dense: Mapping[str, np.ndarray] = field(repr=False)
    compressed: Mapping[str, np.ndarray] = field(repr=False)
    target: np.ndarray | None = field(default=None, repr=False)
    breakdowns: Mapping[str, Breakdown] = field(default_factory=dict, repr=False)
    continuations: Continuations | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        count = len(self)
        for name, array in self._of_examples().items():
            if not isinstance(array, np.ndarray) or array.shape != (count,):
                shape = getattr(array, "shape", type(array).__name__)
                raise ValueError(f"outcomes: {name} must be ({count},) and is {shape}")
            check_array(name, array, np.int64 if _is_whole(name) else np.float64)
        if (self.weights < 0).any() or not self.weights.sum() > 0:
            raise ValueError("outcomes: weights must be from 0, and one of them above it")
        if len(np.unique(self.examples)) < count:
            raise ValueError("outcomes: examples must be hashes of which no two are equal")
        for name, one in self.breakdowns.items():
            if len(one.counts) != count:
                raise ValueError(
                    f"outcomes: the losses by {name} must be of {count} examples and are of "
                    f"{len(one.counts)}"
                )

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def nbytes(self) -> int:
        """The bytes that its arrays take in memory."""
        return sum(array.nbytes for array in self._arrays().values())

    def of(self, rows: np.ndarray) -> Outcomes:
        """Those of some of the examples: an index, or a mask (n,)."""
        dense, compressed = (
            {name: values[rows] for name, values in part.items()}
            for part in (self.dense, self.compressed)
        )
        return replace(
            self,
            examples=self.examples[rows],
            weights=self.weights[rows],
            dense=dense,
            compressed=compressed,
            target=None if self.target is None else self.target[rows],
            breakdowns={name: one.of(rows) for name, one in self.breakdowns.items()},
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        """All arrays, by their names in the file."""
        found = self._of_examples()
        for name, one in self.breakdowns.items():
            found |= {f"{BY}/{name}/{own}": array for own, array in one.arrays().items()}
        if self.continuations is not None:
            arrays = self.continuations.arrays()
            found |= {f"{TEXTS}/{own}": array for own, array in arrays.items()}
        return found

    def _of_examples(self) -> dict[str, np.ndarray]:
        """The arrays (n,), by their names in the file."""
        found = {"examples": self.examples, "weights": self.weights}
        if self.target is not None:
            found["target"] = self.target
        for part in PARTS:
            found |= {f"{part}/{name}": array for name, array in getattr(self, part).items()}
        return found


def write(outcomes: Outcomes, path: str | Path) -> None:
    """Write outcomes whole or not at all.

    Values that are all 0 or 1 take a byte, other values float32, whole numbers the fewest bytes.
    Losses of groups and continuations are optional parts: the header names those that there are.

    Raises:
        ValueError: a value that float32 does not hold, or a name that no file can have.
        OSError: the file cannot be written.
    """
    arrays = {name: _narrow(name, array) for name, array in outcomes._arrays().items()}
    breakdowns = [
        {"name": name, "title": one.title, "labels": list(one.labels)}
        for name, one in outcomes.breakdowns.items()
    ]
    texts = outcomes.continuations
    header: dict[str, object] = {"format": FORM}
    header |= {"breakdowns": breakdowns} if breakdowns else {}
    header |= {} if texts is None else {"written": texts.written}
    tensor_files.write(as_path(path, "path"), arrays, KIND, header)


def read(path: str | Path) -> Outcomes:
    """The outcomes in a file.

    Raises:
        ValueError: it is no file of outcomes, or a damaged one.
        FileNotFoundError: it is not there.
    """
    path = as_path(path, "path")
    with tensor_files.opened(path, KIND, FORM, "lowrank.records.outcomes.write") as file:
        groups = _groups(file.header)
        _check_held(file.shapes, groups, TEXTS_HELD if "written" in file.header else ())
        tensors, is_whole = file.read()
        if not is_whole:
            raise ValueError("it is damaged: its content does not match its hash")
        arrays = {name: _wide(name, tensor) for name, tensor in tensors.items()}
        parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in (*PARTS, BY, TEXTS)}
        for name in [name for name in arrays if "/" in name]:
            part, _, own = name.partition("/")
            parts[part][own] = arrays.pop(name)
        own, texts = parts.pop(BY), parts.pop(TEXTS)
        breakdowns = {
            name: Breakdown(*said, **{part: own[f"{name}/{part}"] for part in BREAKDOWN})
            for name, said in groups.items()
        }
        continuations = None
        if "written" in file.header:
            continuations = Continuations(file.header.integer("written", least=1), **texts)
        examples, weights, target = arrays["examples"], arrays["weights"], arrays.get("target")
        dense, compressed = (parts[part] for part in PARTS)
        return Outcomes(examples, weights, dense, compressed, target, breakdowns, continuations)


def of_record(path: str | Path) -> Outcomes:
    """The outcomes of the record at `path`, such as the column ``path`` of loaded records.

    Raises:
        ValueError: there is no such record, it names no outcomes, or their file is not there, is
            none, or is that of another record.
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
        found = read(path.parent / name)
        check_tied(record, {part: getattr(found, part) for part in PARTS}, found.weights)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} names its outcomes {name}, which is not beside it: copy it there, or measure "
            "the point again"
        ) from error
    return found


def _groups(header: Fields) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The breakdowns that a file says it holds: name → title, labels."""
    found = {}
    for one in header.each("breakdowns") if "breakdowns" in header else ():
        name, title, labels = one.text("name"), one.text("title"), tuple(one.texts("labels"))
        if not all(0 < len(text) <= LONGEST_NAME and text.isprintable() for text in labels):
            raise ValueError(f"the labels of {name[:60]!r} must be printable texts")
        if name in found or not title.isprintable() or len(title) > LONGEST_NAME:
            raise ValueError(f"it describes the losses by {name[:60]!r} twice, or not in words")
        found[name] = title, labels
    return found


def _check_held(
    shapes: Mapping[str, tuple[int, ...]],
    groups: Mapping[str, tuple[str, tuple[str, ...]]],
    texts: Sequence[str],
) -> None:
    """Raise ValueError unless arrays have the names and shapes of outcomes, before any is read."""
    widths = {
        f"{BY}/{name}/{part}": len(labels)
        for name, (_, labels) in groups.items()
        for part in BREAKDOWN
    }
    for name in ("examples", "weights", *widths, *texts):
        if name not in shapes:
            raise ValueError(f"it lacks {name[:60]!r}")
    count = shapes["examples"][0] if len(shapes["examples"]) == 1 else None
    for name, shape in shapes.items():
        if name in texts:
            wanted = shapes[texts[0]][:1]
        elif name in widths:
            wanted = (count, widths[name])
        else:
            _check_name(name)
            wanted = (count,)
        if shape != wanted:
            raise ValueError(
                f"outcomes must be arrays (n,) of one length, and {name[:60]!r} is {shape}"
            )


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
    is_count = name == "weights" or name.endswith("/counts")
    if bool(((values == 0) | (values == 1)).all()) and not is_count:
        return values.to(torch.bool)
    if is_count:
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


def _is_whole(name: str) -> bool:
    """Whether an array of that name holds whole numbers."""
    return name in ("examples", "target", TEXTS_HELD[0]) or name.endswith("/predicted")


def _wide(name: str, tensor: Tensor) -> np.ndarray:
    """An array as `Outcomes` has it."""
    whole = _is_whole(name)
    if tensor.is_complex() or (whole and tensor.is_floating_point()):
        wanted = "whole" if whole else "real"
        raise ValueError(f"{name} must be {wanted} numbers, and is {tensor.dtype}")
    return tensor.to(torch.int64 if whole else torch.float64).numpy()
