"""The text that a model writes for a sound, an image or a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.numerics.checks import check_integer, check_is
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.heads.inputs import Encoded, texts_of
from lowrank.tasks.heads.targets import Targets
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.sentences import PADDING, filled_up
from lowrank.tasks.splits import check_text
from lowrank.tasks.task import loss_metric
from lowrank.tasks.text_pairs import PairTargets, check_no_empty, check_written, shifted, start_of
from lowrank.tasks.text_scores import RecognitionScores, TextScores
from lowrank.tasks.written import ScoredTokens, WrittenTexts, texts_by, written_collection

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection

BEFORE = "decoder_input_ids"


@dataclass(frozen=True)
class TextTargets(ScoredTokens, Targets):
    """The text for each row, as an encoder and decoder writes it: AutoModelForSpeechSeq2Seq of a
    sound, AutoModelForImageTextToText of an image, AutoModelForSeq2SeqLM of a text.

    Quality is that of the texts that it writes. The loss, the agreement with the dense model and
    calibration are by the next token of the wanted text, given its beginning.

    Args:
        column: that of the texts.
        scores: by which written texts are judged.
        max_written: the most tokens of a wanted text, and of one that the model writes.
        beams: the width of the beam; 1 takes the likeliest token each time.
        generation: further arguments of `generate`, such as the language of Whisper.
    """

    column: str = "text"
    scores: TextScores = field(default_factory=RecognitionScores)
    max_written: int = 128
    beams: int = 1
    generation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text("column", self.column)
        check_is("scores", self.scores, TextScores, "RecognitionScores()")
        for name in ("max_written", "beams"):
            check_integer(name, getattr(self, name), least=1)
        if not isinstance(self.generation, Mapping):
            raise ValueError(f"generation={self.generation!r} must be a mapping of names to values")

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[tuple[str, list[int]]]:
        start, _ = start_of(source)
        texts, place = texts_of(data, self.column), f"column {self.column!r}"
        check_no_empty(place, texts)
        ids = source.tokenizer(text_target=texts, verbose=False)["input_ids"]
        # Some tokenizers begin with the token that the model is given before the first.
        ids = [row[1:] if row[0] == start and len(row) > 1 else row for row in ids]
        check_written(place, ids, self.max_written)
        decoder = getattr(source.config, "decoder", None) or source.config
        longest = getattr(decoder, "max_target_positions", None) or getattr(
            decoder, "max_position_embeddings", None
        )
        if longest is not None and self.max_written > longest:
            raise ValueError(
                f"max_written={self.max_written} is more than the {longest} positions of the "
                f"decoder of model {source.name!r}: lower it"
            )
        return list(zip(texts, ids, strict=True))

    def batch(
        self, wanted: list[Any], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        start, pad = start_of(source)
        ids = filled_up([ids for _, ids in wanted])
        real = ids != PADDING
        targets = PairTargets(ids.masked_fill(~real, IGNORED), [text for text, _ in wanted])
        inputs = {**encoded.inputs, BEFORE: shifted(ids, start, pad)}
        return Batch(inputs, targets, {**encoded.real, BEFORE: real})

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> WrittenTexts:
        return WrittenTexts(batch.run(model).logits)

    def predict(self, model: nn.Module, batch: Batch, source: Pretrained) -> WrittenTexts:
        """The scores, and the texts that the model writes."""
        inputs: Any = batch.inputs
        given = {name: value for name, value in inputs.items() if name != BEFORE}
        own = (self.beams, self.max_written)
        texts = texts_by(model, source.tokenizer, given, *own, **self.generation)
        return self.outputs(model, batch, source)._replace(texts=texts)

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        return (*self.scores.metrics(), loss_metric("token"), *agreement_metrics("token"))

    def metrics(self, source: Pretrained) -> MetricCollection:
        return written_collection(self.scores)

    def protocol(self) -> dict[str, Any]:
        return {"beams": self.beams, "max_written": self.max_written}
