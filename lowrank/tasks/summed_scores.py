"""Metrics made of summed counts. Imports torchmetrics, so it should be imported only when needed.

Raises:
    MissingExtra: when imported without the extra ``tasks``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.statistics.jackknife import jackknife

need("a metric of summed counts", "torchmetrics")
from torchmetrics import Metric  # noqa: E402  Not before its absence is said.


class SummedScores(Metric):
    """Scores, each a function of the sums of its counts over all examples.

    Args:
        names: of the scores.
        counts: from the outputs and targets of a batch, by the name of the score the counts of each
            example, float64 (batch, counts).
        score: a score from its name and the sums, (counts,).
    """

    full_state_update = False

    def __init__(
        self,
        names: Iterable[str],
        counts: Callable[[Any, Any], Mapping[str, np.ndarray]],
        score: Callable[[str, np.ndarray], float],
    ) -> None:
        super().__init__()
        self.names, self.counted, self.score = tuple(names), counts, score
        for name in self.names:
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, outputs: Any, targets: Any) -> None:
        for name, counts in self.counted(outputs, targets).items():
            getattr(self, name).append(torch.from_numpy(counts))

    def compute(self) -> dict[str, Tensor]:
        return {
            name: torch.tensor(self.score(name, self._counts(name).sum(axis=0)))
            for name in self.names
        }

    def influences(self) -> dict[str, np.ndarray]:
        """The influence of each example on each score, (examples,), by the jackknife."""
        found = {}
        for name in self.names:
            counts = self._counts(name)
            if len(counts) == 1:  # Of none the score is not defined.
                found[name] = np.zeros(1)
                continue
            without = counts.sum(axis=0) - counts
            found[name] = jackknife(np.array([self.score(name, sums) for sums in without]))
        return found

    def _counts(self, name: str) -> np.ndarray:
        return torch.cat(list(getattr(self, name))).numpy()
