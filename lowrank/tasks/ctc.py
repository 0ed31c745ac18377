"""Texts from scores of frames: connectionist temporal classification (CTC).

Source: Graves, Fernández, Gomez & Schmidhuber, ICML 2006.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.model.batch import Batch
from lowrank.tasks.agreement import class_agreement, class_divergence
from lowrank.tasks.class_metrics import IGNORED, mean_of_counted
from lowrank.tasks.text_pairs import PairTargets
from lowrank.tasks.written import written_influences

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class FrameScores(NamedTuple):
    """Scores of the symbols in each frame, one of which is the blank.

    Attributes:
        logits: (batch, frames, symbols).
        frames: the number of real frames of each example, int64 (batch,).
        blank: the number of the blank.
        texts: the texts that follow from them; None where they were not asked for.
    """

    logits: Tensor
    frames: Tensor
    blank: int
    texts: list[str] | None = None

    @property
    def real(self) -> Tensor:
        """Which frames are real, bool (batch, frames)."""
        places = torch.arange(self.logits.shape[1], device=self.logits.device)
        return places < self.frames[:, None]

    def written(self, decode: Callable[[list[list[int]]], list[str]]) -> FrameScores:
        """The same scores with the texts of their likeliest symbols.

        Args:
            decode: from the symbols of the frames of each example; it leaves out repetitions and
                the blank.
        """
        symbols = self.logits.argmax(dim=2).tolist()
        counts = self.frames.tolist()
        kept = [row[:count] for row, count in zip(symbols, counts, strict=True)]
        return self._replace(texts=decode(kept))


def collapsed(symbols: list[int], blank: int) -> list[int]:
    """The symbols of frames without their repetitions and the blank."""
    return [symbol for symbol, _ in itertools.groupby(symbols) if symbol != blank]


def ctc_losses(outputs: FrameScores, targets: PairTargets) -> Tensor:
    """The negative log-likelihood of each text over its number of symbols, (batch,).

    The mean over a batch is what `torch.nn.CTCLoss` gives by default.

    Raises:
        ValueError: a text that so few frames cannot spell: each symbol takes one, and a repeated
            one a blank besides.
    """
    ids = targets.ids
    lengths = (ids != IGNORED).sum(dim=1)
    needed = lengths + ((ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] != IGNORED)).sum(dim=1)
    for text, most, frames in zip(
        targets.texts, needed.tolist(), outputs.frames.tolist(), strict=True
    ):
        if most > frames:
            raise ValueError(
                f"the text {text!r:.80} needs {most} frames, and the model makes {frames} of its "
                "sound: leave the row out"
            )
    scores = F.log_softmax(outputs.logits, dim=2, dtype=torch.float32).transpose(0, 1)
    losses = F.ctc_loss(
        scores,
        ids.clamp(min=0),
        outputs.frames,
        lengths,
        blank=outputs.blank,
        reduction="none",
    )
    return losses / lengths


class ScoredFrames:
    """The methods of `Task` where outputs are `FrameScores` and targets `PairTargets`.

    The loss is that of each text. Agreement and distance are means over the real frames of each
    sound.
    """

    def loss(self, outputs: FrameScores, targets: PairTargets) -> Tensor:
        """The mean over the texts of the negative log-likelihood, in nats per symbol."""
        return ctc_losses(outputs, targets).mean()

    def predictions(self, batch: Batch) -> Tensor:
        return torch.ones(len(batch), dtype=torch.int64)

    def outcomes(self, outputs: FrameScores, batch: Batch) -> dict[str, Tensor]:
        """ "loss" of each text."""
        return {"loss": ctc_losses(outputs, batch.targets)}

    def agreement(
        self, outputs: FrameScores, dense: FrameScores, batch: Batch
    ) -> dict[str, Tensor]:
        """ "flipped" and "kl" of the real frames, their means of each example."""
        pair = (each.logits.movedim(2, 1) for each in (outputs, dense))
        found = class_agreement(*pair)
        return {name: mean_of_counted(values, dense.real) for name, values in found.items()}

    def distance(self, outputs: FrameScores, dense: FrameScores, batch: Batch) -> Tensor:
        """KL(dense ‖ model), the mean over the real frames."""
        return class_divergence(outputs.logits[dense.real], dense.logits[dense.real])

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        return written_influences(metrics)
