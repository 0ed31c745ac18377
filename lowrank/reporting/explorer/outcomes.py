"""Outcomes of single examples, packed for the paired tests of the explorer.

A value of 0 or 1 takes a bit, any other four bytes. Arrays that occur more than once, such as those
of the dense model that the records of a seed share, are packed once.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.records.columns import metrics_of
from lowrank.records.companions import OUTCOMES
from lowrank.records.outcomes import Outcomes
from lowrank.reporting.examples import read_outcomes

if TYPE_CHECKING:
    import pandas as pd

SIDES = ("compressed", "dense")
NONE_HELD = "the record holds no outcomes of single examples"


@dataclass
class Chunks:
    """Arrays as bytes, one after the other: `places` has for each where it begins, its length, and
    whether its values are bits."""

    data: bytearray = field(default_factory=bytearray)
    places: list[list[int]] = field(default_factory=list)
    known: dict[bytes, int] = field(default_factory=dict)

    def add(self, values: np.ndarray) -> int:
        """The number of an array, shape (n,)."""
        is_bits = bool(np.isin(values, (0, 1)).all())
        content = (np.packbits(values > 0) if is_bits else values.astype("<f4")).tobytes()
        name = hashlib.sha256(content).digest() + bytes([is_bits])
        if name not in self.known:
            self.known[name] = len(self.places)
            self.places.append([len(self.data), len(values), int(is_bits)])
            self.data += content
        return self.known[name]


class Part:
    """The outcomes of the records of one comparison.

    Examples of two records are paired by their hash. So each record has its values in the order of
    the hashes, and two records can be compared if they have the same ones, that is, the same set.
    """

    def __init__(self, frame: pd.DataFrame, most: int) -> None:
        known = {name: metric for name, metric in metrics_of(frame).items() if metric.average}
        self.metrics = list(known)
        # How far models are from the dense one is 0 of that by definition, and no outcome.
        self.of_none = {(name, "dense") for name, one in known.items() if one.dense is not None}
        self.chunks = {name: Chunks() for name in self.metrics}
        self.numbers: dict[str, dict[str, list[int | None]]] = {
            name: {side: [] for side in SIDES} for name in self.metrics
        }
        self.sets: dict[bytes, int] = {}
        self.weights = Chunks()
        self.weighted: list[int | None] = []
        self.set_of: list[int | None] = []
        self.lacking: list[str] = []
        self.too_large: set[str] = set()
        for path, is_held in zip(frame["path"], frame[OUTCOMES.field].notna(), strict=True):
            self._add(Path(path) if is_held else None, most)

    def _add(self, path: Path | None, most: int) -> None:
        found = self._read(path)
        order = np.array([], dtype=int) if found is None else np.argsort(found.examples)
        self.set_of.append(None if found is None else self._set(found, order))
        for name, side in itertools.product(self.metrics, SIDES):
            values: np.ndarray | None = None if found is None else getattr(found, side).get(name)
            number = None
            is_kept = name not in self.too_large and (name, side) not in self.of_none
            if values is not None and is_kept:
                number = self.chunks[name].add(values[order])
            self.numbers[name][side].append(number)
            if len(self.chunks[name].data) > most:
                self.too_large.add(name)

    def _read(self, path: Path | None) -> Outcomes | None:
        """The outcomes of a record; None, with the reason, if they are not there or are broken."""
        try:
            if path is None:
                raise ValueError(NONE_HELD)
            (found,) = read_outcomes([str(path)])
        except ValueError as error:
            self.lacking.append(str(error))
            return None
        self.lacking.append("")
        return found

    def _set(self, found: Outcomes, order: np.ndarray) -> int:
        """The number of the set of examples of a record."""
        weights = found.weights[order]
        name = hashlib.sha256(found.examples[order].tobytes() + weights.tobytes()).digest()
        if name not in self.sets:
            self.sets[name] = len(self.sets)
            equal = bool((weights == weights[:1]).all())
            self.weighted.append(None if equal else self.weights.add(weights))
        return self.sets[name]


def packed(parts: Sequence[pd.DataFrame], most: int) -> tuple[list[dict[str, Any]], bytes]:
    """The outcomes of comparisons, and the bytes in which their arrays lie.

    The first metric of each comparison comes first, then the second of each, as far as they fit.

    Args:
        parts: each with rows of `lowrank.records.store.load`, of one comparison.
        most: the most bytes.

    Returns:
        For each part its `sets` (of each the place of its weights, None for equal ones), `of` (of
        each record the number of its set), `metrics` (per metric its `places`, and of each record
        the number of the place of its compressed and of its dense model), and `why` (per metric
        that is not there, the reason), and `lacking` (of each record why it has none, or an empty
        text); and the bytes.
    """
    read = [Part(part, most) for part in parts]
    data = bytearray()
    found = [_with_sets(part, data) for part in read]
    for position in range(max((len(part.metrics) for part in read), default=0)):
        for part, plain in zip(read, found, strict=True):
            for name in part.metrics[position : position + 1]:
                reason = _refusal(part, name, most - len(data))
                if reason:
                    plain["why"][name] = reason
                else:
                    places = _appended(data, part.chunks[name])
                    plain["metrics"][name] = {"places": places, **part.numbers[name]}
    return found, bytes(data)


def _with_sets(part: Part, data: bytearray) -> dict[str, Any]:
    places = _appended(data, part.weights)
    sets = [None if number is None else places[number] for number in part.weighted]
    return {"sets": sets, "of": part.set_of, "metrics": {}, "why": {}, "lacking": part.lacking}


def _refusal(part: Part, name: str, room: int) -> str:
    """Why the outcomes of a metric are left out; empty if they are not."""
    size = len(part.chunks[name].data)
    if not size:
        return NONE_HELD
    if name in part.too_large or size > room:
        more = "more than " if name in part.too_large else ""
        return (
            f"the outcomes of single examples take {more}{size / 1e6:.1f} MB, and this page had "
            f"room for {max(room, 0) / 1e6:.1f} MB; make a page of fewer records"
        )
    return ""


def _appended(data: bytearray, chunks: Chunks) -> list[list[int]]:
    """Add chunks to the data, in place; where each is in it."""
    start = len(data)
    data += chunks.data
    return [[start + offset, *rest] for offset, *rest in chunks.places]
