"""Clips of speech of any length as waveforms, from any dataset of the hub."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.numerics.checks import check_integer, check_number
from lowrank.tasks.audio_sources import read_wave, sounds_of
from lowrank.tasks.hub_rows import kept, rows_of
from lowrank.tasks.hub_sources import HubSource
from lowrank.tasks.splits import check_texts_of
from lowrank.tasks.waves import at_peak
from lowrank.tasks.whole_data import SPLITS, HubPart, check_parts


@dataclass(frozen=True)
class HubSpeech(HubSource):
    """Any dataset of the Hugging Face hub, or of a mirror (see `hub`), with clips of speech.

    Clips are decoded once and kept in the cache.

    Args:
        dataset: ``organisation/name``.
        sampling_rate: of all clips, in Hz; another rate is refused, for nothing is resampled.
        peak: the largest absolute value to which each clip is scaled, above 0 and at most 1.
        train, validation, test: its splits, which share no clip; slices such as ``train[:80%]`` are
            allowed.
        whole: the split of which `test` is a part, where published figures are of the whole.
        config: the dataset's configuration, where it has several.
        revision: a commit or tag of the hub; set it for data that may change there.
        audio: the column of clips.

    Raises:
        ValueError: an option of the wrong kind; from `read`, missing data, or a clip that cannot be
            decoded, is silent, or has several channels or another rate.
    """

    dataset: str
    sampling_rate: int
    peak: float = 0.95
    train: str = "train"
    validation: str = "validation"
    test: str = "test"
    whole: str | None = None
    config: str | None = None
    revision: str | None = None
    audio: str = "audio"

    def __post_init__(self) -> None:
        check_texts_of(self, ("dataset", "audio"), ("config", "revision"))
        check_integer("sampling_rate", self.sampling_rate, least=1)
        check_number("peak", self.peak, "be above 0 and at most 1", lambda x: 0 < x <= 1)
        check_parts(self)
        need("clips of the hub", "datasets", "filelock", "soundfile")

    def read(self, part: HubPart) -> list[Tensor]:
        """The clips of one part, each float32 (samples,)."""
        found = kept("speech", self, getattr(self, part), SPLITS, self._decode)
        return list(found["waves"].split(found["lengths"].tolist()))

    def _decode(self, split: str) -> dict[str, Tensor]:
        data = rows_of(self, split, self.audio)
        waves = []
        for row, sound in enumerate(sounds_of(data, self.audio)):
            place = f"the clip in row {row} of split {split!r} of dataset {self.dataset!r}"
            wave = read_wave(sound, self.sampling_rate, place)
            try:
                waves.append(at_peak(wave, self.peak))
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
        lengths = torch.tensor([len(wave) for wave in waves])
        return {"waves": torch.cat(waves), "lengths": lengths}
