"""Outcomes of the single examples of a split, gathered batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from lowrank.files.digest import bytes_of
from lowrank.model.batch import Batch
from lowrank.records.outcomes import CONFIDENCE, PREDICTED, Outcomes
from lowrank.records.parts import Breakdown, Continuations
from lowrank.statistics.jackknife import as_values
from lowrank.tasks.agreement import real_of
from lowrank.tasks.groupings import Grouping

# What `Task.outcomes` may give besides, the class of the example.
TARGET = "target"


@dataclass(frozen=True, eq=False)
class ExampleValues:
    """The outcomes of one model on the examples of a split.

    Attributes:
        examples, weights, target: as in `Outcomes`.
        values: as `Outcomes.dense`.
        groups: by the name of a grouping, the losses of its groups.
        texts: continuations of prompts, if asked for.
    """

    examples: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    values: Mapping[str, np.ndarray] = field(repr=False)
    target: np.ndarray | None = field(default=None, repr=False)
    groups: Mapping[str, GroupLosses] = field(default_factory=dict, repr=False)
    texts: Texts | None = field(default=None, repr=False)


class GroupLosses(NamedTuple):
    """The numbers of predictions and the mean losses of groups, float64 (n, groups)."""

    title: str
    labels: tuple[str, ...]
    counts: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True, eq=False)
class Texts:
    """Continuations of prompts by one model, int64 (prompts, given) and (prompts, written)."""

    prompts: Tensor = field(repr=False)
    written: Tensor = field(repr=False)


def paired(dense: ExampleValues, compressed: ExampleValues) -> Outcomes:
    """The outcomes of a dense and of a compressed model on the same examples.

    Raises:
        ValueError: the examples are not the same.
    """
    both = dense.groups, compressed.groups
    same = np.array_equal(dense.examples, compressed.examples) and both[0].keys() == both[1].keys()
    if not (
        same
        and all(np.array_equal(own.counts, both[1][name].counts) for name, own in both[0].items())
    ):
        raise ValueError(
            "the dense and the compressed model were measured on different examples: `split` of "
            "the task must give the same data each time"
        )
    values = dense.values, compressed.values
    breakdowns = {
        name: Breakdown(*own, compressed.groups[name].losses) for name, own in dense.groups.items()
    }
    return Outcomes(
        dense.examples,
        dense.weights,
        *values,
        target=compressed.target,
        breakdowns=breakdowns,
        continuations=_compared(dense.texts, compressed.texts),
    )


def _compared(dense: Texts | None, compressed: Texts | None) -> Continuations | None:
    """Where the continuations of two models are the same."""
    if dense is None or compressed is None:
        return None
    same = (dense.written == compressed.written).double()
    return Continuations(
        dense.written.shape[1],
        _unlike(hashes(Batch((dense.prompts,)))),
        same.sum(dim=1).numpy(),
        same.cumprod(dim=1).sum(dim=1).numpy(),
    )


class Gathered:
    """The outcomes of the examples so far."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.weights: list[Tensor] = []
        self.hashes: list[int] = []
        self.groupings: dict[str, Grouping] = {}
        self.counts: dict[str, list[Tensor]] = {}

    def add(
        self,
        values: Mapping[str, Tensor],
        weights: Tensor,
        batch: Batch,
        groupings: Sequence[Grouping] = (),
    ) -> None:
        """Add those of a batch: by name, tensors (batch,), of a grouping (batch, groups)."""
        for grouping in groupings:
            self.groupings[grouping.name] = grouping
            self.counts.setdefault(grouping.name, []).append(grouping.counts(batch).cpu())
        for name, numbers in values.items():
            self.values.setdefault(name, []).append(numbers.detach().cpu())
        self.weights.append(weights.cpu())
        self.hashes += hashes(batch)

    def influence(self, name: str, value: float, influences: np.ndarray) -> None:
        """Add what stands for the outcomes of a metric that is no mean, from the influence of each
        example on its value."""
        outcomes = as_values(value, influences, self._weights())
        self.values[name] = [torch.from_numpy(outcomes)]

    def mean(self, name: str) -> float:
        """The mean of a value over the predictions; NaN without any."""
        weights, values = self._weights(), self._array(name)
        total = weights.sum()
        # Without predictions an example has no value, so NaN there counts nothing.
        return float((weights * np.where(weights > 0, values, 0)).sum() / total) if total else nan

    def result(self, kept: set[str]) -> ExampleValues:
        """The outcomes, of these names and of those that are no metrics."""
        weights, found = self._weights(), {}
        for name in self.values:
            if name in kept or name in (PREDICTED, CONFIDENCE):
                found[name] = np.where(weights > 0, self._array(name), 0)
        target = self._array(TARGET) if TARGET in self.values else None
        groups = {name: self._losses(grouping) for name, grouping in self.groupings.items()}
        return ExampleValues(_unlike(self.hashes), weights, found, target, groups)

    def _losses(self, grouping: Grouping) -> GroupLosses:
        counts = torch.cat(self.counts[grouping.name]).double().numpy()
        losses = np.where(counts > 0, self._array(grouping.name), 0)
        return GroupLosses(grouping.title, grouping.labels, counts, losses)

    def _weights(self) -> np.ndarray:
        return torch.cat(self.weights).double().numpy()

    def _array(self, name: str) -> np.ndarray:
        values = torch.cat(self.values[name])
        return values.to(torch.int64 if name in (PREDICTED, TARGET) else torch.float64).numpy()


def of_examples(numbers: Tensor, weights: Tensor) -> Tensor | None:
    """The mean of the numbers of each example, float64 (batch,); None if it is not seen which
    belong to which.

    Args:
        numbers: (batch, …), or (predictions,), those of one example after those of another.
        weights: the number of predictions of each example, (batch,).
    """
    numbers, counts = numbers.detach().double().cpu(), weights.cpu()
    if numbers.ndim == 1 and len(numbers) == int(counts.sum()):
        owners = torch.arange(len(counts)).repeat_interleave(counts)
        totals = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, owners, numbers)
        return totals / counts.clamp(min=1)
    if numbers.ndim and len(numbers) == len(counts):
        return numbers.reshape(len(numbers), -1).mean(dim=1)
    return None


def hashes(batch: Batch) -> list[int]:
    """A hash of each example's input and target; padding does not count."""
    digests = [xxhash.xxh3_64() for _ in range(len(batch))]
    places = batch.inputs.items() if isinstance(batch.inputs, Mapping) else enumerate(batch.inputs)
    for place, value in places:
        _update(digests, value, batch, batch.real.get(place))
    _update(digests, batch.targets, batch, None)
    return [digest.intdigest() for digest in digests]


def _update(digests: list[Any], value: Any, batch: Batch, real: Tensor | None) -> None:
    """Count the parts of each example in."""
    if isinstance(value, Tensor) and value.ndim:
        real = real_of(batch, value.shape[:2]) if real is None else real
        for digest, row in zip(digests, _rows(value, real), strict=True):
            # With its length, or parts of different lengths could make equal bytes.
            digest.update(f"{row.dtype} {row.numel()} ".encode())
            digest.update(bytes_of(row.contiguous()))
    elif isinstance(value, list):
        for digest, entry in zip(digests, value, strict=True):
            digest.update(repr(entry).encode())
    elif isinstance(value, Mapping | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            _update(digests, part, batch, real)


def _rows(value: Tensor, real: Tensor | None) -> Iterator[Tensor]:
    """The real positions of each example."""
    value = value.detach().cpu().resolve_conj().resolve_neg()
    if real is None or real.shape != value.shape[:2]:
        yield from value
        return
    for row, kept in zip(value, real.cpu(), strict=True):
        yield row[kept]


def _unlike(found: list[int]) -> np.ndarray:
    """Hashes of which no two are equal, int64: the second of equal examples is another one."""
    seen: dict[int, int] = {}
    for place, number in enumerate(found):
        times = seen.get(number, 0)
        seen[number] = times + 1
        if times:
            found[place] = xxhash.xxh3_64_intdigest(f"{number} {times}".encode())
    return np.array(found, dtype=np.uint64).view(np.int64)
