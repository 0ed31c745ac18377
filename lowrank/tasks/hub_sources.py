"""The bases of sources of examples that are datasets of the hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from lowrank.tasks.hub_rows import kept
from lowrank.tasks.splits import data_name

Part = Literal["train", "test"]
PARTS = get_args(Part)


def check_part(part: Part) -> None:
    """Raise ValueError unless `part` is one of the two parts of a source."""
    if part not in PARTS:
        raise ValueError(
            f"there is no part {part!r} of the images, there are {' and '.join(PARTS)}: a "
            "task makes its validation split from its train images"
        )


class HubSource:
    """A dataset of the Hugging Face hub, or of a mirror (see `hub`); each final class is a frozen
    dataclass.

    Attributes:
        dataset: ``organisation/name``.
        config: the dataset's configuration, where it has several.
    """

    dataset: str
    config: str | None

    @property
    def name(self) -> str:
        """The default name of a task on this dataset."""
        return data_name(self.dataset, self.config)


class TwoParts(HubSource):
    """A dataset with a train and a test split that share no example.

    Attributes:
        train, test: the names of the splits.
    """

    train: str
    test: str

    def _check_parts(self) -> None:
        """Raise ValueError if the two are the same."""
        if self.train == self.test:
            raise ValueError(f"train and test are both {self.train!r}; they must not overlap")

    def _kept(
        self, kind: str, part: Part, decode: Callable[[str], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The tensors of a part, decoded on first use; see `kept`."""
        check_part(part)
        return kept(kind, self, getattr(self, part), PARTS, decode)
