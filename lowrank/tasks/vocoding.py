"""Speech synthesis: a waveform from a spectrogram, by any vocoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.model.forward import Example, evaluating
from lowrank.numerics.checks import check_integer, check_is
from lowrank.tasks.builders import bound
from lowrank.tasks.class_metrics import mean_of_counted
from lowrank.tasks.own_network import OwnNetwork
from lowrank.tasks.spectral_distances import (
    COEFFICIENTS,
    cepstral_distortion,
    log_mel_distance,
)
from lowrank.tasks.speech_sources import HubSpeech
from lowrank.tasks.splits import check_division, named
from lowrank.tasks.task import BatchSizes, Split, loss_metric
from lowrank.tasks.weights import Weights
from lowrank.tasks.whole_data import HubPart, OfParts

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

METRICS = (
    Metric(
        "log_mel_l1",
        "log-mel distance to the recording (test split, mean per band)",
        "log-mel L1",
        higher_is_better=False,
        average="mean",
    ),
    Metric(
        "mcd",
        "mel-cepstral distortion to the recording (test split, dB)",
        "MCD (dB)",
        higher_is_better=False,
        average="mean",
    ),
)
TO_DENSE = Metric(
    "log_mel_to_dense",
    "log-mel distance to the dense model's speech\n(test split, mean per band)",
    "log-mel L1 to dense",
    higher_is_better=False,
    dense=0.0,
    average="mean",
)


class Frames(NamedTuple):
    """The spectrograms of recordings.

    Attributes:
        mels: (batch, bands, frames), natural logarithms.
        counts: int64, (batch,), the frames of each; the others are padding.
    """

    mels: Tensor
    counts: Tensor


@dataclass(frozen=True)
class SpeechSplit(Split):
    """Spectrograms, each (1, bands, frames); shorter ones of a batch end in its lowest value."""

    mels: list[Tensor]
    device: str

    def __len__(self) -> int:
        return len(self.mels)

    def batch(self, rows: Tensor) -> Batch:
        found = [self.mels[row] for row in rows.tolist()]
        counts = torch.tensor([mel.shape[2] for mel in found])
        most, least = int(counts.max()), min(float(mel.min()) for mel in found)
        each = [F.pad(mel, (0, most - mel.shape[2]), value=least) for mel in found]
        mels = torch.cat(each).to(self.device)
        return Batch((mels,), Frames(mels, counts.to(self.device)))


@dataclass(frozen=True)
class Vocoding(OwnNetwork, OfParts):
    """A vocoder, judged by copy synthesis: the spectrogram of a recording is made into a waveform,
    and that of the waveform compared with it.

    Splits are those of the source: whole clips, but `train`, and `calibration`, which is a part of
    it, are windows of them of one length, as in the training of vocoders.

    The loss is the log-mel distance, as in HiFi-GAN's training beside its discriminators, which
    are no part of what is published. The distance to the dense model is that between the waveforms.

    Args:
        name: the name of the task in records; the dataset's if None.
        architecture: the network's name in records.
        source: the recordings.
        features: ``package.module:function`` from waveforms (batch, samples) and
            `feature_arguments` to spectrograms (batch, bands, frames), natural logarithms of
            magnitudes in 14 bands or more, such as `lowrank.tasks.spectrograms:vocoder_mels`.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
            It maps spectrograms to waveforms (batch, 1, samples) of as many frames.
        weights: the source of the network's weights; None keeps those of the builder.
        window: samples of an example of `train`.
        calibration_size: windows; all of `train` if not given.
        calibration_seed: draws `calibration` from `train`; by default the first ones are taken.
        seed: the seed of the initial weights and the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, clips that are shorter than a
            window, or a network that does not fit the spectrograms or its weights.
    """

    units = "clips"
    # One clip has no padding, so that it is spoken as it is.
    batch_sizes = BatchSizes(quality=1, latency=(1,))

    name: str | None  # never None after __post_init__
    architecture: str
    source: HubSpeech
    features: str
    builder: str
    weights: Weights | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    feature_arguments: Mapping[str, Any] = field(default_factory=dict)
    window: int = 32_768
    calibration_size: int | None = None
    calibration_seed: int | None = None
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_is("source", self.source, HubSpeech, "HubSpeech('me/speech', 22050)")
        object.__setattr__(self, "name", named(self.name, self.source.name))
        self._check_network()
        self._check_function("features", "feature_arguments")
        check_integer("window", self.window, least=1)
        check_division(None, self.calibration_size, self.calibration_seed)
        need("measures of speech", "torchmetrics")

    def mels(self, waves: Tensor) -> Tensor:
        """The spectrograms (batch, bands, frames) of waveforms (batch, samples)."""
        return bound(self.features, self.feature_arguments)(waves)

    def loss(self, outputs: Tensor, targets: Frames) -> Tensor:
        """The mean log-mel distance over the frames of a batch."""
        return self._distances(outputs, targets)[self._real(targets)].mean()

    def predictions(self, batch: Batch) -> Tensor:
        """The frames of each clip."""
        return batch.targets.counts

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """ "loss", "log_mel_l1" and "mcd", the mean over the frames of each clip."""
        targets, real = batch.targets, self._real(batch.targets)
        made = self._spoken(outputs, targets)
        distance = mean_of_counted(log_mel_distance(made, targets.mels), real)
        distortion = mean_of_counted(cepstral_distortion(made, targets.mels), real)
        return {"loss": distance, "log_mel_l1": distance, "mcd": distortion}

    def agreement(self, outputs: Tensor, dense: Tensor, batch: Batch) -> dict[str, Tensor]:
        """ "log_mel_to_dense"."""
        other = batch.targets._replace(mels=self._spoken(dense, batch.targets))
        apart = self._distances(outputs, other)
        return {TO_DENSE.name: mean_of_counted(apart, self._real(batch.targets))}

    def distance(self, outputs: Tensor, dense: Tensor, batch: Batch) -> Tensor:
        """The mean log-mel distance between the waveforms over the frames of a batch."""
        other = batch.targets._replace(mels=self._spoken(dense, batch.targets))
        return self.loss(outputs, other)

    def judged_by(self) -> tuple[Metric, ...]:
        return (*METRICS, loss_metric("frame"), TO_DENSE)

    def metrics(self) -> MetricCollection:
        from torchmetrics import MeanMetric, MetricCollection

        return MetricCollection({metric.name: MeanMetric() for metric in METRICS})

    def count(self, metrics: MetricCollection, outputs: Tensor, targets: Frames) -> None:
        made, real = self._spoken(outputs, targets), self._real(targets)
        for name, measure in (("log_mel_l1", log_mel_distance), ("mcd", cepstral_distortion)):
            one: Any = metrics[name]
            one.update(measure(made, targets.mels)[real])

    def example(self, batch_size: int = 1) -> Example:
        """The first second of the first test clip."""
        second = self.source.read("test")[0][: self.source.sampling_rate]
        mel = self.mels(second.unsqueeze(0))
        return (mel.repeat(batch_size, 1, 1).to(self.device),)

    def write_example(self, model: nn.Module, row: int, stem: Path) -> list[Path]:
        """A file of the sound, WAV of 16 bits.

        Raises:
            ValueError: the test split has no such row.
        """
        import soundfile

        test, path = self.split("test"), stem.with_name(f"{stem.name}.wav")
        if not 0 <= row < len(test):
            raise ValueError(
                f"row={row} must be in 0..{len(test) - 1}, the clips of the test split"
            )
        with evaluating(model), torch.inference_mode():
            wave = self.forward(model, test.batch(torch.tensor([row])))[0, 0]
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave.float().cpu().numpy(), self.source.sampling_rate, "PCM_16")
        return [path]

    def _read(self, part: HubPart) -> list[Tensor]:
        waves = self.source.read(part)
        if part == "train":
            waves = [piece for wave in waves for piece in wave.split(self.window)]
            waves = [piece for piece in waves if len(piece) == self.window]
            if not waves:
                raise ValueError(
                    f"no clip of split {self.source.train!r} of {self.source.dataset!r} has "
                    f"window={self.window} samples: lower it"
                )
        with torch.no_grad():
            mels = [self.mels(wave.unsqueeze(0)) for wave in waves]
        shape = tuple(mels[0].shape)
        if len(shape) != 3 or shape[1] <= COEFFICIENTS:
            raise ValueError(
                f"features {self.features} gives {shape} for one clip; it must be (1, bands, "
                f"frames) of {COEFFICIENTS + 1} bands or more"
            )
        return mels

    def _rows(self, found: list[Tensor], rows: Tensor) -> SpeechSplit:
        return SpeechSplit([found[row] for row in rows.tolist()], self.device)

    def _check_outputs(self, model: nn.Module) -> None:
        example: Any = self.example()
        mel = example[0]
        given = self._given(model, mel)
        try:
            with torch.no_grad():
                frames = self.mels(torch.zeros(given[0], given[-1])).shape[2]  # type: ignore[arg-type]
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(f"{self._unfit(given, mel)}: {error}") from error
        if len(given) != 3 or given[1] != 1 or frames != mel.shape[2]:
            raise ValueError(self._unfit(given, mel))

    def _unfit(self, given: Any, mel: Tensor) -> str:
        return (
            f"the network of {self.builder} gives {given} for a spectrogram of shape "
            f"{tuple(mel.shape)}, not a waveform (1, 1, samples) of {mel.shape[2]} frames"
        )

    def _spoken(self, outputs: Tensor, targets: Frames) -> Tensor:
        """The spectrograms of waveforms."""
        return self.mels(outputs.squeeze(1))[:, :, : targets.mels.shape[2]]

    def _distances(self, outputs: Tensor, targets: Frames) -> Tensor:
        return log_mel_distance(self._spoken(outputs, targets), targets.mels)

    def _real(self, targets: Frames) -> Tensor:
        """bool (batch, frames)."""
        places = torch.arange(targets.mels.shape[2], device=targets.counts.device)
        return places < targets.counts[:, None]
