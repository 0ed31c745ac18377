"""Clips of spoken words joined into strings of one speaker, from any dataset of the hub."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.numerics.checks import check_integer
from lowrank.tasks.audio_sources import read_wave, sounds_of
from lowrank.tasks.hub_rows import class_numbers, rows_of
from lowrank.tasks.hub_sources import Part, TwoParts
from lowrank.tasks.splits import check_texts_of, permutation
from lowrank.tasks.waves import padded


@dataclass(frozen=True)
class SpokenClips:
    """Clips of one word each.

    Attributes:
        waves: float32, (count, samples of the longest), in [−1, 1].
        lengths: their real samples, int64 (count,).
        labels: the numbers of their words, int64 (count,), from 0.
        speakers: int64 (count,).
    """

    waves: Tensor
    lengths: Tensor
    labels: Tensor
    speakers: Tensor

    def joined(self, rows: Tensor) -> Tensor:
        """The clips at `rows` one after the other, float32 (samples,)."""
        return torch.cat([self.waves[row, : self.lengths[row]] for row in rows.tolist()])


@dataclass(frozen=True)
class HubSpokenWords(TwoParts):
    """Any dataset of the Hugging Face hub, or of a mirror (see `hub`), of clips with one word each,
    whose speaker is known. They are decoded once and kept in the cache.

    Args:
        dataset: ``organisation/name``.
        sampling_rate: of all clips, in Hz; another rate is refused, for nothing is resampled.
        train, test: its splits, which share no clip; slices such as ``train[:80%]`` are allowed.
        config: the dataset's configuration, where it has several.
        revision: a commit or tag of the hub; set it for data that may change there.
        audio, label, speaker: the columns.

    Raises:
        ValueError: an option of the wrong kind; from `read`, missing data, clips that cannot be
            decoded, have several channels or another rate, or labels that are no class numbers.
    """

    dataset: str
    sampling_rate: int
    train: str = "train"
    test: str = "test"
    config: str | None = None
    revision: str | None = None
    audio: str = "audio"
    label: str = "label"
    speaker: str = "speaker"

    def __post_init__(self) -> None:
        names = ("dataset", "train", "test", "audio", "label", "speaker")
        check_texts_of(self, names, ("config", "revision"))
        check_integer("sampling_rate", self.sampling_rate, least=1)
        self._check_parts()
        need("clips of the hub", "datasets", "filelock", "soundfile")

    def read(self, part: Part) -> SpokenClips:
        """The train or the test clips, which share none."""
        found = self._kept("spoken", part, self._decode)
        return SpokenClips(**{name: found[name] for name in SpokenClips.__annotations__})

    def _decode(self, split: str) -> dict[str, Tensor]:
        data = rows_of(self, split, self.audio, self.label, self.speaker)
        labels = class_numbers(self, data, self.label)["labels"]
        place = f"of dataset {self.dataset!r}"
        waves = [
            read_wave(sound, self.sampling_rate, f"the clip in row {row} {place}")
            for row, sound in enumerate(sounds_of(data, self.audio))
        ]
        lengths = torch.tensor([len(wave) for wave in waves])
        longest = int(lengths.max())
        names = list(data[self.speaker])
        numbers = {name: at for at, name in enumerate(sorted(set(names), key=str))}
        return {
            "waves": torch.stack([padded(wave, longest) for wave in waves]),
            "lengths": lengths,
            "labels": labels,
            "speakers": torch.tensor([numbers[name] for name in names]),
        }


def strings_of(
    speakers: Tensor, least: int, most: int, passes: int = 1, seed: int = 0
) -> list[Tensor]:
    """Rows of clips to be joined: strings of `least` to `most` clips of one speaker each.

    Each clip is in one string of each pass.

    Args:
        speakers: of the clips, int64 (count,).
        passes: how often all clips are drawn anew.
        seed: draws their order and the lengths.

    Raises:
        ValueError: a speaker has fewer than `least` clips, or lengths that leave rests.
    """
    if most < 2 * least - 1:
        raise ValueError(f"most={most} must be at least 2 · least − 1 = {2 * least - 1}")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(passes):
        for speaker in speakers.unique().tolist():
            rows = torch.nonzero(speakers == speaker)[:, 0]
            if len(rows) < least:
                raise ValueError(
                    f"speaker {speaker} has {len(rows)} clips, fewer than least={least}: lower it, "
                    "or take more clips"
                )
            rows = rows[torch.randperm(len(rows), generator=generator)]
            while len(rows):
                count = int(torch.randint(least, most + 1, (), generator=generator))
                if len(rows) <= most:
                    count = len(rows)
                elif len(rows) - count < least:  # The rest would be too short.
                    count = len(rows) - least
                found.append(rows[:count])
                rows = rows[count:]
    order = permutation(len(found), seed)
    return [found[at] for at in order.tolist()]
