"""Sources of text for tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowrank.files.extras import need
from lowrank.tasks import hub
from lowrank.tasks.hub_sources import HubSource
from lowrank.tasks.splits import check_texts_of


@dataclass(frozen=True)
class HubText(HubSource):
    """One split of a dataset with a column of text, by its name on the hub.

    Args:
        split: in the notation of the `datasets` library; ``train[:5000]`` is the first 5000 rows.
        config: the configuration, if the dataset has several, such as ``wikitext-2-raw-v1``.
        column: the column of the text.
        revision: a commit of the dataset on the hub.

    Raises:
        ValueError: one of these is no text.
    """

    dataset: str
    split: str
    config: str | None = None
    column: str = "text"
    revision: str | None = None

    def __post_init__(self) -> None:
        check_texts_of(self, ("dataset", "split", "column"), ("config", "revision"))
        need("text of the hub", "datasets")

    def rows(self) -> list[str]:
        """The text, row by row.

        Raises:
            ValueError: there is no such text.
        """
        return self._read(self.column, str, "text")

    def labels(self, column: str) -> list[int]:
        """The class numbers in another column, row by row.

        Raises:
            ValueError: there are none, or one is below 0, which marks hidden labels.
        """
        labels = [int(label) for label in self._read(column, int, "class numbers")]
        if min(labels) < 0:
            raise ValueError(
                f"column {column!r} of {self} has class number {min(labels)}; the labels of this "
                "split may be hidden: take another"
            )
        return labels

    def _read(self, column: str, kind: type, what: str) -> list[Any]:
        data = hub.load_split(self.dataset, self.split, self.config, self.revision)
        if column not in data.column_names:
            raise ValueError(f"{self} has no column {column!r}; it has {data.column_names}")
        values = data.select_columns([column])[:][column]
        wrong = [value for value in values if not isinstance(value, kind)]
        if wrong or not values:
            found = f"{wrong[0]!r} ({type(wrong[0]).__name__})" if wrong else "no rows"
            raise ValueError(f"column {column!r} of {self} must hold {what}, and has {found}")
        return values


def check_texts(test: HubText, train: HubText) -> None:
    """Raise ValueError unless they are two different texts."""
    for name, text in {"test": test, "train": train}.items():
        if not isinstance(text, HubText):
            raise ValueError(f"{name}={text!r} must be a HubText")
    if test == train:
        raise ValueError(f"the texts test and train are the same: {test}")
