"""Text to text: any pretrained encoder and decoder that writes a text for a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.model.forward import Example
from lowrank.numerics.checks import check_integer
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.sourced_task import SourcedTask
from lowrank.tasks.splits import check_division, check_seed, check_text, named
from lowrank.tasks.task import BatchSizes, loss_metric
from lowrank.tasks.text_pairs import TextPairs, read_pairs
from lowrank.tasks.text_scores import TextScores, TranslationScores
from lowrank.tasks.text_sources import HubText, check_texts
from lowrank.tasks.written import ScoredTokens, WrittenTexts, texts_by, written_collection

if TYPE_CHECKING:
    from torchmetrics import MetricCollection
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextToText(ScoredTokens, SourcedTask):
    """An encoder and decoder of transformers that writes a text for a text: a translation, a
    summary.

    Quality is that of the texts that it writes. The loss, the agreement with the dense model and
    calibration are by the next token of the wanted text, given its beginning.

    Splits: `test` is the text `test`, ordered by length. `validation` is the text `validation` if
    given, or else `validation_size` pairs of the text `train`; the others are `train`, and
    `calibration` is a part of these.

    Args:
        name: the name of the task in records; that of the test data if None.
        architecture: the model's name in records.
        pretrained: the model's name in the mirror or on the hub, or its folder. Its own tokenizer
            is used.
        test, train, validation: the sources; these texts must differ.
        target: the column with the wanted text.
        scores: by which written texts are judged.
        prefix: text before each source, such as T5's "translate German to English: ".
        max_length: the most tokens of a source; further ones are cut off.
        max_written: the most tokens of a target, and of a text that the model writes.
        beams: the width of the beam; 1 takes the likeliest token each time. All else is as in the
            generation config of the model, without sampling.
        dtype: the dtype of the weights, float32, float16 or bfloat16, whatever the file has.
        revision: a commit of the model on the hub.
        trust_remote_code: whether code that comes with the model may run.
        validation_size: a tenth of the pairs of `train`, at most 1000, if not given.
        calibration_size: 256, or all pairs of the split `train` if it has fewer, if not given.
        calibration_seed: draws `calibration` from `train`; by default the first ones are taken.
        split_seed: draws `validation` from the text `train`.
        seed: the seed of the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, a missing model or text, an empty
            text, a target that is longer than `max_written`, or a model that has no token before
            the first.
    """

    units = "pairs"
    batch_sizes = BatchSizes(quality=32, latency=(1,))

    name: str | None  # never None after __post_init__
    architecture: str
    pretrained: str
    test: HubText
    train: HubText
    target: str
    validation: HubText | None = None
    scores: TextScores = field(default_factory=TranslationScores)
    prefix: str = ""
    max_length: int = 128
    max_written: int = 128
    beams: int = 1
    validation_size: int | None = None
    calibration_size: int | None = None
    calibration_seed: int | None = None
    split_seed: int = 0
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_texts(self.test, self.train)
        object.__setattr__(self, "name", named(self.name, self.test.name))
        check_text("architecture", self.architecture)
        check_text("target", self.target)
        if self.validation is not None:
            check_texts(self.test, self.validation)
            check_texts(self.validation, self.train)
            if self.validation_size is not None:
                raise ValueError(
                    f"validation_size={self.validation_size} is of no effect beside "
                    f"validation={self.validation}: leave it out, or take a part by its split, "
                    "such as validation[:200]"
                )
        if not isinstance(self.scores, TextScores):
            raise ValueError(
                f"scores={self.scores!r} must be TextScores, such as TranslationScores()"
            )
        if not isinstance(self.prefix, str):
            raise ValueError(f"prefix={self.prefix!r} must be a text")
        for name in ("max_length", "max_written", "beams"):
            check_integer(name, getattr(self, name), least=1)
        check_division(
            self.validation_size, self.calibration_size, self.calibration_seed, self.split_seed
        )
        check_seed("seed", self.seed)
        _ = self._pretrained  # Made here to check its options.
        need("measures of written texts", "torchmetrics")

    def network(self) -> nn.Module:
        from transformers import AutoModelForSeq2SeqLM

        return self._pretrained.network(AutoModelForSeq2SeqLM)

    def model(self) -> nn.Module:
        from transformers import AutoModelForSeq2SeqLM

        model = self._pretrained.model(AutoModelForSeq2SeqLM)
        return model.to(self.device)  # type: ignore[arg-type]

    def forward(self, model: nn.Module, batch: Batch) -> WrittenTexts:
        return WrittenTexts(batch.run(model).logits)

    def predict(self, model: nn.Module, batch: Batch) -> WrittenTexts:
        """The scores, and the texts that the model writes."""
        inputs: Any = batch.inputs
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        texts = texts_by(model, self.tokenizer, given, self.beams, self.max_written)
        return self.forward(model, batch)._replace(texts=texts)

    def judged_by(self) -> tuple[Metric, ...]:
        return (*self.scores.metrics(), loss_metric("token"), *agreement_metrics("token"))

    def metrics(self) -> MetricCollection:
        return written_collection(self.scores)

    def example(self, batch_size: int = 1) -> Example:
        """Test pairs of the median source, and the same target for all, so without padding."""
        sources = self._test_examples.lengths[:, 0]
        usual = int(torch.nonzero(sources == sources.median())[0, 0])
        return self._test_examples.batch(torch.full((batch_size,), usual)).inputs

    def protocol(self) -> dict[str, Any]:
        """The numbers of pairs; "longest" is in tokens of a source, after the cut at
        `max_length`."""
        return {
            **super().protocol(),
            "beams": self.beams,
            "test_pairs": len(self._test_examples),
            "validation_pairs": len(self.split("validation")),
            "calibration_pairs": len(self._division.calibration),
            "longest": int(self._test_examples.lengths[:, 0].max()),
        }

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._pretrained.tokenizer

    def _ordered(self, found: TextPairs) -> TextPairs:
        # Sorted by length, so that batches hold little padding.
        return found.part(found.lengths[:, 0].argsort(stable=True))

    def _read(self, source: HubText) -> TextPairs:
        pairs = read_pairs(
            source, self.target, self._pretrained, self.prefix, self.max_length, self.max_written
        )
        return pairs.to(self.device)
