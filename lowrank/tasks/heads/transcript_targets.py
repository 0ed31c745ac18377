"""The text that is spoken, from the scores of frames (CTC)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.numerics.checks import check_is
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.ctc import FrameScores, ScoredFrames
from lowrank.tasks.heads.inputs import Encoded, texts_of
from lowrank.tasks.heads.targets import Targets
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.sentences import PADDING, filled_up
from lowrank.tasks.splits import check_text
from lowrank.tasks.task import loss_metric
from lowrank.tasks.text_pairs import PairTargets, check_no_empty
from lowrank.tasks.text_scores import RecognitionScores, TextScores
from lowrank.tasks.written import written_collection

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


@dataclass(frozen=True)
class TranscriptTargets(ScoredFrames, Targets):
    """The text that is spoken in each sound, as AutoModelForCTC scores its characters: the
    likeliest of each frame, without repetitions and blanks.

    Args:
        column: that of the texts, written with the characters of the model's tokenizer.
        scores: by which written texts are judged.
    """

    column: str = "text"
    scores: TextScores = field(default_factory=RecognitionScores)

    def __post_init__(self) -> None:
        check_text("column", self.column)
        check_is("scores", self.scores, TextScores, "RecognitionScores()")

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[tuple[str, list[int]]]:
        texts, tokenizer = texts_of(data, self.column), source.tokenizer
        check_no_empty(f"column {self.column!r}", texts)
        if tokenizer.pad_token_id != source.config.pad_token_id:
            raise ValueError(
                f"model {source.name!r} has the blank {source.config.pad_token_id} in its config, "
                f"and {tokenizer.pad_token_id} in its tokenizer"
            )
        found = list(zip(texts, tokenizer(texts, verbose=False)["input_ids"], strict=True))
        for row, (text, ids) in enumerate(found):
            if tokenizer.unk_token_id in ids or not ids:
                raise ValueError(
                    f"the text in row {row} of column {self.column!r}, {text!r:.60}, has "
                    f"characters that the tokenizer of model {source.name!r} does not have, such "
                    "as small letters"
                )
        return found

    def batch(
        self, wanted: list[Any], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        ids = filled_up([ids for _, ids in wanted])
        ids = ids.masked_fill(ids == PADDING, IGNORED)
        targets = PairTargets(ids, [text for text, _ in wanted])
        return Batch(encoded.inputs, targets, encoded.real)

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> FrameScores:
        logits = batch.run(model).logits
        frames = _frames(model, batch, logits, source)
        return FrameScores(logits, frames, int(source.config.pad_token_id))  # type: ignore[arg-type]

    def predict(self, model: nn.Module, batch: Batch, source: Pretrained) -> FrameScores:
        """The scores, and the texts that follow from them."""
        return self.outputs(model, batch, source).written(source.tokenizer.batch_decode)

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        return (*self.scores.metrics(), loss_metric("text"), *agreement_metrics("frame"))

    def metrics(self, source: Pretrained) -> MetricCollection:
        return written_collection(self.scores)


def _frames(model: Any, batch: Batch, logits: Tensor, source: Pretrained) -> Tensor:
    """The number of frames that a model makes of each sound, int64 (batch,)."""
    if not batch.is_padded:
        return torch.full((len(logits),), logits.shape[1], device=logits.device)
    # What the losses of all models of transformers with such a head call.
    count = getattr(model, "_get_feat_extract_output_lengths", None)
    if count is None:
        raise ValueError(
            f"model {source.name!r} ({type(model).__name__}) does not say how many frames it makes "
            "of a sound, so the padding among them cannot be told: take sounds of one length"
        )
    return count(next(iter(batch.real.values())).sum(dim=1)).to(logits.device)
