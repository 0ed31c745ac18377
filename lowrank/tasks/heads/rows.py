"""Rows of a dataset, and a split of them whose batches are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lowrank.files.extras import need
from lowrank.model.batch import Batch
from lowrank.tasks.hub_rows import rows_of
from lowrank.tasks.hub_sources import HubSource
from lowrank.tasks.splits import check_texts_of
from lowrank.tasks.task import Split

if TYPE_CHECKING:
    from datasets import Dataset


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


@dataclass(frozen=True)
class RowSplit(Split):
    """Examples that are made into batches by the processor of a model, again in each pass: images
    and sounds so take no more memory than a batch.

    Args:
        given, wanted: of each row of the dataset.
        rows: those of the split, int64 (count,).
        make: a batch of what is given and wanted, and the numbers of these rows.
    """

    given: Sequence[Any]
    wanted: Sequence[Any]
    rows: Tensor
    make: Callable[[list[Any], list[Any], list[int]], Batch]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> Batch:
        numbers = self.rows[rows.cpu()].tolist()
        given, wanted = ([values[at] for at in numbers] for values in (self.given, self.wanted))
        return self.make(given, wanted, numbers)

    def part(self, rows: Tensor) -> RowSplit:
        """The examples at `rows`."""
        return replace(self, rows=self.rows[rows])
