"""The spectrogram of each text that is spoken, by a model of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.tasks.audio_sources import sounds_of
from lowrank.tasks.class_metrics import mean_of_counted
from lowrank.tasks.heads.audio_inputs import check_sound, waves_of
from lowrank.tasks.heads.inputs import Encoded, column_of
from lowrank.tasks.heads.targets import Targets
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.spectral_distances import log_mel_distance
from lowrank.tasks.splits import check_text
from lowrank.tasks.task import loss_metric
from lowrank.tasks.vocoding import METRICS, TO_DENSE

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection

BEFORE = "decoder_input_values"
# What models of transformers leave out of their loss.
PADDING = -100.0
TO_RECORDING = METRICS[0]


class Spoken(NamedTuple):
    """What a model makes of texts.

    Attributes:
        mels: (batch, frames, bands).
        losses: (batch,), the loss of the batch at each text.
    """

    mels: Tensor
    losses: Tensor


class Recorded(NamedTuple):
    """The spectrograms of recordings.

    Attributes:
        mels: (batch, frames, bands), by the model's own feature extractor.
        real: bool, (batch, frames); the others are padding.
    """

    mels: Tensor
    real: Tensor


@dataclass(frozen=True)
class SpectrogramTargets(Targets):
    """The log-mel spectrogram of the recording of each text, frame by frame, as
    AutoModelForTextToSpectrogram makes it given the right frames before: an encoder of texts and a
    decoder of frames, such as SpeechT5. The vocoder after it is a model of its own.

    Quality is the mean |difference| to the recording; the loss is the model's own, of a batch. What
    a model drops by chance also in evaluation, as SpeechT5 does of the frames before, is the same
    for all models.

    Args:
        column: that of the recordings, of the rate of the model's feature extractor.
        speaker: the column of lists of numbers that describe the voice; None if the model takes
            none.
    """

    column: str = "audio"
    speaker: str | None = None

    def __post_init__(self) -> None:
        check_text("column", self.column)
        if self.speaker is not None:
            check_text("speaker", self.speaker)
        need("recordings", "soundfile", "torchmetrics")

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[tuple[Any, Any]]:
        extractor, config = source.feature_extractor, source.config
        takes = inspect.signature(type(extractor).__call__).parameters
        if "audio_target" not in takes or not hasattr(config, "reduction_factor"):
            raise ValueError(
                f"model {source.name!r} ({type(config).__name__}) is no encoder of texts and "
                "decoder of frames, with a feature extractor that makes spectrograms of recordings"
            )
        column_of(data, self.column)
        sounds = sounds_of(data, self.column)
        for row in range(len(data)):
            check_sound(sounds[row], row, self.column, source)
        voices = [None] * len(data) if self.speaker is None else self._voices(data, source)
        return list(zip(sounds, voices, strict=True))

    def batch(
        self, wanted: list[Any], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        extractor, each = source.feature_extractor, source.config.reduction_factor
        waves = waves_of([sound for sound, _ in wanted], rows, self.column)
        found = extractor(
            audio_target=waves,
            sampling_rate=extractor.sampling_rate,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        # The decoder makes several frames at a time, and none of a rest.
        frames = found["input_values"].shape[1] // each * each
        mels, real = found["input_values"][:, :frames], found["attention_mask"][:, :frames].bool()
        if not bool(real.any(dim=1).all()):
            row = rows[int((~real.any(dim=1)).nonzero()[0])]
            raise ValueError(f"the sound in row {row} of column {self.column!r} fills no frame")
        mels = mels.masked_fill(~real[..., None], 0.0)
        # Of the frames before, those that the decoder is given, after one of zeros.
        last = mels[:, each - 1 :: each]
        before = torch.cat([torch.zeros_like(last[:, :1]), last[:, :-1]], dim=1)
        is_given = real[:, each - 1 :: each]
        mask = "decoder_attention_mask"
        inputs = {**encoded.inputs, BEFORE: before, mask: is_given.long()}
        voices = [voice for _, voice in wanted]
        if self.speaker is not None:
            inputs["speaker_embeddings"] = torch.tensor(voices, dtype=torch.float32)
        reals = {**encoded.real, BEFORE: is_given, mask: is_given}
        return Batch(inputs, Recorded(mels, real), reals)

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> Spoken:
        mels, real = batch.targets
        labels = mels.masked_fill(~real[..., None], PADDING)
        given: Any = replace(batch.fresh(), targets=None).inputs
        with torch.random.fork_rng([mels.device] if mels.is_cuda else []):
            if not model.training:
                torch.manual_seed(0)
            found = model(**given, labels=labels)
        return Spoken(found.spectrogram, found.loss.expand(len(mels)))

    def loss(self, outputs: Spoken, targets: Recorded) -> Tensor:
        return outputs.losses.mean()

    def predictions(self, batch: Batch) -> Tensor:
        """The frames of each recording."""
        return batch.targets.real.sum(dim=1)

    def outcomes(self, outputs: Spoken, batch: Batch) -> dict[str, Tensor]:
        """ "log_mel_l1", the mean over the frames of each recording."""
        wanted, real = batch.targets
        return {TO_RECORDING.name: mean_of_counted(_distances(outputs.mels, wanted), real)}

    def agreement(self, outputs: Spoken, dense: Spoken, batch: Batch) -> dict[str, Tensor]:
        """ "log_mel_to_dense"."""
        apart = _distances(outputs.mels, dense.mels)
        return {TO_DENSE.name: mean_of_counted(apart, batch.targets.real)}

    def distance(self, outputs: Spoken, dense: Spoken, batch: Batch) -> Tensor:
        """The mean log-mel distance over the frames of a batch."""
        return _distances(outputs.mels, dense.mels)[batch.targets.real].mean()

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        return (TO_RECORDING, loss_metric("frame", average=None), TO_DENSE)

    def metrics(self, source: Pretrained) -> MetricCollection:
        from torchmetrics import MeanMetric, MetricCollection

        return MetricCollection({TO_RECORDING.name: MeanMetric()})

    def count(self, metrics: MetricCollection, outputs: Spoken, targets: Recorded) -> None:
        metrics.update(_distances(outputs.mels, targets.mels)[targets.real])

    def _voices(self, data: Dataset, source: Pretrained) -> list[Any]:
        width = source.config.speaker_embedding_dim
        voices = list(column_of(data, str(self.speaker)))
        for row, voice in enumerate(voices):
            numbers = voice if isinstance(voice, list) else []
            if len(numbers) != width or not all(isinstance(n, int | float) for n in numbers):
                raise ValueError(
                    f"column {self.speaker!r} must hold {width} numbers for each voice, as model "
                    f"{source.name!r} takes them, and row {row} has {voice!r:.60}"
                )
        return voices


def _distances(mels: Tensor, wanted: Tensor) -> Tensor:
    """Of each frame, (batch, frames)."""
    return log_mel_distance(mels.transpose(1, 2), wanted.transpose(1, 2))
