"""Texts that models write, token by token: their loss, agreement and scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.tasks.agreement import counted_agreement, counted_divergence
from lowrank.tasks.class_metrics import IGNORED, mean_of_counted
from lowrank.tasks.text_pairs import PairTargets
from lowrank.tasks.text_scores import TextScores
from lowrank.tasks.token_sequences import token_loss, token_losses

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class WrittenTexts(NamedTuple):
    """The scores of the tokens of the wanted texts, (batch, length, vocabulary), and the texts that
    the model writes by itself; None where it was not asked to."""

    logits: Tensor
    texts: list[str] | None = None


class ScoredTokens:
    """The methods of `Task` where outputs are `WrittenTexts` and targets `PairTargets`: means over
    the tokens of the wanted texts, each given its beginning."""

    def loss(self, outputs: WrittenTexts, targets: PairTargets) -> Tensor:
        """The mean negative log-likelihood of the tokens of the targets, in nats per token."""
        return token_loss(outputs.logits, targets.ids)

    def predictions(self, batch: Batch) -> Tensor:
        return (batch.targets.ids != IGNORED).sum(dim=1)

    def outcomes(self, outputs: WrittenTexts, batch: Batch) -> dict[str, Tensor]:
        """ "loss", the mean over the tokens of each target."""
        ids = batch.targets.ids
        return {"loss": mean_of_counted(token_losses(outputs.logits, ids), ids != IGNORED)}

    def agreement(
        self, outputs: WrittenTexts, dense: WrittenTexts, batch: Batch
    ) -> dict[str, Tensor]:
        """ "flipped" and "kl" of the tokens of the targets."""
        return counted_agreement(outputs.logits, dense.logits, batch.targets.ids != IGNORED)

    def distance(self, outputs: WrittenTexts, dense: WrittenTexts, batch: Batch) -> Tensor:
        """KL(dense ‖ model), the mean over the tokens of the targets."""
        return counted_divergence(outputs.logits, dense.logits, batch.targets.ids != IGNORED)

    def influences(self, metrics: MetricCollection) -> dict[str, np.ndarray]:
        return written_influences(metrics)


def texts_by(
    model: nn.Module,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    beams: int,
    most: int,
    **generation: Any,
) -> list[str]:
    """The texts that a model writes without sampling.

    Args:
        inputs: those of its encoder, by the names of its arguments.
        beams: the width of the beam.
        most: tokens of a text.
        generation: further arguments of `generate`.
    """
    ids = model.generate(  # type: ignore[operator]
        **inputs,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=most,
        max_length=None,
        use_cache=True,
        **generation,
    )
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def written_collection(scores: TextScores) -> MetricCollection:
    """Scores of outputs that have `texts` against targets that have some."""
    from torchmetrics import MetricCollection

    from lowrank.tasks.summed_scores import SummedScores

    def counts(outputs: Any, targets: PairTargets) -> Mapping[str, np.ndarray]:
        assert outputs.texts is not None, "texts are written by `predict`"
        return scores.counts(outputs.texts, targets.texts)

    names = [metric.name for metric in scores.metrics()]
    return MetricCollection({"written": SummedScores(names, counts, scores.score)})


def written_influences(metrics: MetricCollection) -> dict[str, np.ndarray]:
    """The influence of each text on the scores of `written_collection`."""
    written: Any = metrics["written"]
    return written.influences()
