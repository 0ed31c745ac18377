"""Groupings of predictions, by which the loss of a task is broken down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.model.batch import Batch
from lowrank.tasks.class_metrics import IGNORED

NOT_SEEN = "not seen"


@dataclass(frozen=True, eq=False)
class Grouping:
    """A property of predictions, such as the position of a token, whose values make groups.

    Attributes:
        name: in outcomes on record.
        title: what the labels are, for tables and figures.
        labels: of the groups, in their order.
        numbers: gives the group of each prediction of a batch, int64 (batch, …), by its place in
            `labels`; -1 where a prediction does not count.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    numbers: Callable[[Batch], Tensor]

    def counts(self, batch: Batch) -> Tensor:
        """The number of predictions of each example in each group, float64 (batch, groups)."""
        return self._counts(self._places(batch))

    def means(self, values: Tensor, batch: Batch) -> Tensor:
        """The mean in each group of each example, float64 (batch, groups); 0 for an empty group.

        Args:
            values: of the predictions, (batch, …).
        """
        places = self._places(batch)
        totals = self._sums(places, values.double().reshape(places.shape))
        return totals / self._counts(places).clamp(min=1)

    def _counts(self, places: Tensor) -> Tensor:
        return self._sums(places, torch.ones(places.shape, dtype=torch.float64))

    def _places(self, batch: Batch) -> Tensor:
        """The column of each prediction, (batch, predictions); 0 for what does not count."""
        return self.numbers(batch).flatten(1) + 1

    def _sums(self, places: Tensor, values: Tensor) -> Tensor:
        sums = torch.zeros(len(places), len(self.labels) + 1, dtype=torch.float64)
        return sums.to(places.device).scatter_add_(1, places, values.to(places.device))[:, 1:]


def token_groupings(inputs: Tensor, length: int) -> tuple[Grouping, ...]:
    """Groupings of predicted tokens, for targets (batch, length) that follow their inputs:

    - "token_rank": by the rank of the token among the tokens of the train split, by frequency;
    - "position": by the number of tokens before it in its input.

    Groups are wider by a factor of four from one to the next: 1–3, 4–15, 16–63 and so on.

    Args:
        inputs: tokens of the train split, int64 (inputs, length).
        length: of an input.
    """
    counts = torch.bincount(inputs.flatten())
    order = counts.argsort(descending=True, stable=True)
    seen = int((counts > 0).sum())
    ranks, by_rank = fourfold(seen)
    # Of tokens that the train split lacks, the last group.
    of_token = torch.full((len(counts) + 1,), len(ranks), device=inputs.device)
    of_token[order[:seen]] = by_rank.to(inputs.device)
    before, by_position = fourfold(length - 1)
    # After the last token of an input nothing is predicted.
    by_position = torch.cat([by_position, by_position[-1:]])
    return (
        Grouping(
            "token_rank",
            "rank of the token in the train split",
            (*ranks, NOT_SEEN),
            lambda batch: _counted(
                of_token[batch.targets.clamp(min=0, max=len(of_token) - 1)], batch
            ),
        ),
        Grouping(
            "position",
            "tokens before the token in its input",
            before,
            lambda batch: _counted(
                by_position[: batch.targets.shape[1]].to(batch.targets.device), batch
            ),
        ),
    )


def fourfold(most: int) -> tuple[tuple[str, ...], Tensor]:
    """The labels of the groups 1–3, 4–15 and so on up to `most`, and the group of each number from
    1 to `most`, int64 (most,)."""
    labels, numbers, low = [], [], 1
    while low <= most:
        high = min(4 * low - 1, most)
        labels.append(f"{low}–{high}" if low < high else f"{low}")
        numbers += [len(labels) - 1] * (high - low + 1)
        low = high + 1
    return tuple(labels), torch.tensor(numbers, dtype=torch.int64)


def _counted(groups: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch.targets == IGNORED, -1, groups)
