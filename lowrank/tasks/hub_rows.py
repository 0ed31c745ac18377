"""What sources of examples have in common that read a dataset of the hub once and keep it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowrank.tasks import cache, hub

if TYPE_CHECKING:
    from datasets import Dataset


def kept(
    kind: str,
    source: Any,
    split: str,
    others: Collection[str],
    decode: Callable[[str], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """The tensors of a split, decoded on first use and then from the cache.

    Args:
        kind: the folder in the cache.
        source: a dataclass with the name of its `dataset`.
        split: in the notation of the `datasets` library.
        others: the fields of `source` that name splits, and decide nothing over this one.
        decode: from the split to its tensors.
    """
    fields = {name: value for name, value in asdict(source).items() if name not in others}
    # A sequence may be one of Hydra's.
    is_list = lambda value: isinstance(value, Sequence) and not isinstance(value, str)  # noqa: E731
    config = {name: list(value) if is_list(value) else value for name, value in fields.items()}
    config |= {"split": split, "fingerprint": hub.fingerprint(source.dataset)}
    return cache.tensors(kind, config, lambda: decode(split))


def rows_of(source: Any, split: str, *columns: str) -> Dataset:
    """The rows of a split, of which there are some, with these columns.

    Args:
        source: with the name of its `dataset`, `config` and `revision`.

    Raises:
        ValueError: there is no such split, it is empty, or lacks a column.
    """
    data = hub.load_split(source.dataset, split, source.config, source.revision)
    if len(data) == 0:
        raise ValueError(f"split {split!r} of dataset {source.dataset!r} is empty")
    for column in columns:
        if column not in data.column_names:
            raise ValueError(
                f"dataset {source.dataset!r} has no column {column!r}; it has {data.column_names}"
            )
    return data


def class_numbers(source: Any, data: Dataset, column: str) -> dict[str, Tensor]:
    """The "labels" in a column, int64 (rows,), and the number of "classes", 0 if not known.

    Raises:
        ValueError: they are no whole numbers from 0.
    """
    from datasets import ClassLabel

    labels = data.select_columns([column])[:][column]
    if not all(isinstance(number, int) and number >= 0 for number in labels):
        raise ValueError(
            f"column {column!r} of dataset {source.dataset!r} must hold class numbers from 0, "
            f"and holds {sorted(set(labels), key=repr)[:5]}"
        )
    feature = data.features[column]
    names = (feature.names or ()) if isinstance(feature, ClassLabel) else ()
    return {"labels": torch.tensor(labels, dtype=torch.int64), "classes": torch.tensor(len(names))}
