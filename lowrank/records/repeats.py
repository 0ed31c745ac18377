"""Repetitions of a measurement: detection of seeds that gave the same numbers again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank.records.companions import OF_EXPORT, OUTCOMES
from lowrank.records.rows import RECORD_LABELS

if TYPE_CHECKING:
    import pandas as pd

# The columns in which repetitions of one measurement agree.
POINT = ("method", "family", "norm", "level", "point")
# Columns of the records that name a point, and measure nothing. Of an export too: the name of its
# folder begins with the key of the point, and only the best of a sweep may keep one.
NAMING = {
    *(*RECORD_LABELS, *POINT, "dense_recovery", "tuned", "path", "metrics"),
    *(OUTCOMES.field, *OF_EXPORT),
}
# Prefixes of columns that differ from run to run with the same seed, and of those that do on a GPU.
TIMED = ("latency_", "dense_latency_", "speedup_", "timings.")
ALLOCATED = {"peak_memory_bytes", "dense_peak_memory_bytes"}


def is_timed(column: str) -> bool:
    """Whether a column of the records is a time or a ratio of times: a new number in every run."""
    return column.startswith(TIMED)


def of_their_own(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with distinct numbers: of repetitions with the same numbers, the first.

    Where neither task nor method draws by the seed, repetitions are equal and would show a spread
    of zero. Rows are equal if all measures and sizes are; times are ignored.
    """
    return frame.drop_duplicates([*POINT, *_outcome(frame)])


def dense_of_their_own(frame: pd.DataFrame) -> list[Any]:
    """The seeds whose dense models have distinct numbers; of those with the same, the first."""
    return list(frame.drop_duplicates("seed").drop_duplicates(_of_the_dense(frame))["seed"])


def dense_numbers(frame: pd.DataFrame) -> dict[Any, int]:
    """A number for the dense model of each seed: the same where all came out alike."""
    first = frame.drop_duplicates("seed")
    numbers = first.groupby(_of_the_dense(frame), dropna=False, sort=False).ngroup()
    return dict(zip(first["seed"], map(int, numbers), strict=True))


def outcome_numbers(frame: pd.DataFrame) -> dict[Any, int]:
    """A number for what came out of each record, by its row: the same where all came out alike."""
    return frame.groupby(_outcome(frame), dropna=False, sort=False).ngroup().to_dict()


def _of_the_dense(frame: pd.DataFrame) -> list[str]:
    """The columns that hold what came out of the dense model of a record."""
    # The dense bytes of the compressed layers depend on which layers these are.
    return [
        name
        for name in _outcome(frame)
        if name.startswith("dense_") and name != "dense_layers_bits_per_weight"
    ]


def _outcome(frame: pd.DataFrame) -> list[str]:
    """The columns that hold what came out of a record."""
    names = {str(name) for name in frame} - NAMING - ALLOCATED
    return [name for name in map(str, frame) if name in names and _is_outcome(name)]


def _is_outcome(column: str) -> bool:
    return "." not in column and not is_timed(column)
