"""Rows of a dataset, and a split of them whose batches are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.model.batch import Batch
from lowrank.model.nested import tensors
from lowrank.tasks.hub_rows import rows_of
from lowrank.tasks.hub_sources import HubSource
from lowrank.tasks.splits import check_texts_of
from lowrank.tasks.task import Split

if TYPE_CHECKING:
    from datasets import Dataset

# Bytes of the batches that are kept of one source.
MOST = 2**28


@dataclass(frozen=True)
class HubRows(HubSource):
    """One split of a dataset, by its name on the hub.

    Args:
        split: in the notation of the `datasets` library; ``train[:5000]`` is the first 5000 rows.
        config: the configuration, if the dataset has several.
        revision: a commit of the dataset on the hub.

    Raises:
        ValueError: one of these is no text; from `read`, there is no such split, or it is empty.
    """

    dataset: str
    split: str
    config: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        check_texts_of(self, ("dataset", "split"), ("config", "revision"))
        need("rows of the hub", "datasets")

    def read(self) -> Dataset:
        """The rows."""
        return rows_of(self, self.split)


class KeptBatches:
    """Batches that passes in the order of the data ask for again, as evaluations do.

    Args:
        most: bytes of their tensors; further batches are made each time.
    """

    def __init__(self, most: int = MOST) -> None:
        self._left, self._batches = most, {}

    def batch(self, rows: list[int], make: Callable[[], Batch]) -> Batch:
        """The batch of some rows, with inputs into which a model may write."""
        found = self._batches.get(tuple(rows))
        if found is None:
            with torch.inference_mode(False):  # Later passes may need gradients.
                found = make()
            parts = (found.inputs, found.targets, dict(found.real))
            size = sum(tensor.nbytes for tensor in tensors(parts))
            if size > self._left:
                return found
            self._left -= size
            self._batches[tuple(rows)] = found
        return found.fresh()


@dataclass(frozen=True)
class RowSplit(Split):
    """Examples that are made into batches by the processor of a model. Of passes in the order of
    the data some are kept; others are made again, since images and sounds may not fit into memory.

    Args:
        given, wanted: of each row of the dataset.
        rows: those of the split, int64 (count,).
        make: a batch of what is given and wanted, and the numbers of these rows.
        kept: by the numbers of their rows.
    """

    given: Sequence[Any]
    wanted: Sequence[Any]
    rows: Tensor
    make: Callable[[list[Any], list[Any], list[int]], Batch]
    kept: KeptBatches = field(default_factory=KeptBatches)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> Batch:
        numbers = self.rows[rows.cpu()].tolist()
        if len(rows) and torch.equal(rows.cpu(), torch.arange(len(rows)) + int(rows[0])):
            return self.kept.batch(numbers, lambda: self._made(numbers))
        return self._made(numbers)

    def part(self, rows: Tensor) -> RowSplit:
        """The examples at `rows`."""
        return replace(self, rows=self.rows[rows])

    def _made(self, numbers: list[int]) -> Batch:
        given, wanted = ([values[at] for at in numbers] for values in (self.given, self.wanted))
        return self.make(given, wanted, numbers)
