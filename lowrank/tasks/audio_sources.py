"""Labelled clips of sound as waveforms, from any dataset of the hub."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.numerics.checks import check_integer
from lowrank.tasks.hub_rows import class_numbers, rows_of
from lowrank.tasks.hub_sources import Part, TwoParts
from lowrank.tasks.splits import check_texts_of
from lowrank.tasks.waves import padded

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Clips:
    """Clips of equal length with their labels.

    Attributes:
        waves: float32, (count, samples), in [−1, 1].
        labels: int64, (count,), from 0.
        classes: the number of classes, or None if the dataset does not say it.
    """

    waves: Tensor
    labels: Tensor
    classes: int | None = None


@dataclass(frozen=True)
class HubClips(TwoParts):
    """Any audio-classification dataset of the Hugging Face hub, or of a mirror (see `hub`).

    Clips are decoded once and kept in the cache. Shorter ones get zeros at their end.

    Args:
        dataset: ``organisation/name``.
        sampling_rate: of all clips, in Hz; another rate is refused, for nothing is resampled.
        samples: the length of a clip; a longer one is refused.
        train: the split of the train clips; slices such as ``train[:80%]`` are allowed.
        test: the split of the test clips; must share no clip with `train`.
        config: the dataset's configuration, where it has several.
        revision: a commit or tag of the hub; set it for data that may change there.
        audio, label: the columns.

    Raises:
        ValueError: an option of the wrong kind; from `read`, missing data, clips that cannot be
            decoded, have several channels or another rate, or are too long; labels that are no
            class numbers.
    """

    dataset: str
    sampling_rate: int
    samples: int
    train: str = "train"
    test: str = "test"
    config: str | None = None
    revision: str | None = None
    audio: str = "audio"
    label: str = "label"

    def __post_init__(self) -> None:
        check_texts_of(self, ("dataset", "train", "test", "audio", "label"), ("config", "revision"))
        for name in ("sampling_rate", "samples"):
            check_integer(name, getattr(self, name), least=1)
        self._check_parts()
        need("clips of the hub", "datasets", "filelock", "soundfile")

    def read(self, part: Part) -> Clips:
        """The train or the test clips, which share none."""
        content = self._kept("clips", part, self._decode)
        return Clips(content["waves"], content["labels"], int(content["classes"]) or None)

    def _decode(self, split: str) -> dict[str, Tensor]:
        data = rows_of(self, split, self.audio, self.label)
        labelled = class_numbers(self, data, self.label)
        sounds = sounds_of(data, self.audio)
        waves = [self._wave(sound, row) for row, sound in enumerate(sounds)]
        return {"waves": torch.stack(waves), **labelled}

    def _wave(self, sound: Any, row: int) -> Tensor:
        """One clip, float32 (samples,)."""
        place = f"the clip in row {row} of dataset {self.dataset!r}"
        wave = read_wave(sound, self.sampling_rate, place)
        if len(wave) > self.samples:
            raise ValueError(
                f"{place} has {len(wave)} samples; clips must have 1..{self.samples}: raise "
                "`samples`, or take other clips"
            )
        return padded(wave, self.samples)


def sounds_of(data: Dataset, column: str) -> Sequence[Any]:
    """The sounds in a column, not decoded: that needs torchcodec, which brings FFmpeg."""
    from datasets import Audio

    return data.cast_column(column, Audio(decode=False))[column]


@contextmanager
def decoding(sound: Any, place: str) -> Iterator[Any]:
    """The file of one of `sounds_of`, for the functions of `soundfile`.

    Args:
        place: what it is, for errors.

    Raises:
        ValueError: those fail.
    """
    import soundfile

    try:
        yield io.BytesIO(sound["bytes"]) if sound["bytes"] is not None else sound["path"]
    except (soundfile.SoundFileError, TypeError, OSError) as error:
        raise ValueError(f"{place} cannot be decoded: {error}") from error


def read_wave(sound: Any, sampling_rate: int, place: str) -> Tensor:
    """The samples of a sound of one channel, float32 (samples,), in [−1, 1].

    Args:
        sound: one of `sounds_of`.
        place: what it is, for errors.

    Raises:
        ValueError: it cannot be decoded, is empty, or has several channels or another rate.
    """
    import soundfile

    with decoding(sound, place) as file:
        wave, rate = soundfile.read(file, dtype="float32")
    if rate != sampling_rate or wave.ndim != 1:
        channels = 1 if wave.ndim == 1 else wave.shape[1]
        raise ValueError(
            f"{place} has {rate} samples a second and {channels} channels; clips must have "
            f"sampling_rate={sampling_rate} and one channel"
        )
    if len(wave) == 0:
        raise ValueError(f"{place} has no samples")
    return torch.from_numpy(wave)
