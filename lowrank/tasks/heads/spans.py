"""Spans of words that tags such as B-PER and I-PER mark, and F1 of those found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lowrank.metrics.metric import Metric
from lowrank.tasks.class_metrics import IGNORED

OUTSIDE = "O"
F1 = Metric(
    "entity_f1",
    "F1 of named spans found whole (test split)",
    "entity F1 (%)",
    "percent",
    average="mean",
)


def has_spans(names: Sequence[str]) -> bool:
    """Whether the names of classes are tags of spans."""
    return OUTSIDE in names and all(name == OUTSIDE or name[:2] in ("B-", "I-") for name in names)


def spans_of(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """The spans that tags mark: first word, word after the last, kind.

    A span begins at B, and at an I that follows no tag of its kind, as in the program of CoNLL.

    Source: Tjong Kim Sang & De Meulder, CoNLL 2003 (conlleval).
    """
    found, first, kind = set(), 0, None
    for place, tag in enumerate([*tags, OUTSIDE]):
        goes_on = tag[:2] == "I-" and tag[2:] == kind
        if kind is not None and not goes_on:
            found.add((first, place, kind))
        if tag == OUTSIDE:
            kind = None
        elif not goes_on:
            first, kind = place, tag[2:]
    return found


def span_counts(predicted: Tensor, wanted: Tensor, names: Sequence[str]) -> np.ndarray:
    """Of each example the numbers of spans found right, predicted and wanted, (batch, 3).

    Args:
        predicted, wanted: class numbers (batch, length); positions count where one is wanted.
        names: of the classes.
    """
    counts = []
    for ours, right in zip(predicted, wanted, strict=True):
        numbers = (row[right != IGNORED].tolist() for row in (ours, right))
        found, real = (spans_of([str(names[one]) for one in row]) for row in numbers)
        counts.append((len(found & real), len(found), len(real)))
    return np.array(counts, dtype=float)


def f1_of(name: str, sums: np.ndarray) -> float:
    """F1 from the sums of `span_counts`; NaN without any span."""
    right, predicted, wanted = sums
    return float(2 * right / (predicted + wanted)) if predicted + wanted else float("nan")
