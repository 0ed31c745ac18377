"""Sounds, by the feature extractor of a model of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.tasks.audio_sources import decoding, sounds_of
from lowrank.tasks.heads.inputs import Encoded, ModelInputs, column_of
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.splits import check_text

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


@dataclass(frozen=True)
class AudioInputs(ModelInputs):
    """Sounds of one channel, at the rate of the model; nothing is resampled.

    Args:
        column: that of the sounds.
    """

    column: str = "audio"

    def __post_init__(self) -> None:
        check_text("column", self.column)
        need("sounds of the hub", "soundfile")

    def examples(self, data: Dataset, source: Pretrained) -> Sequence[Any]:
        column_of(data, self.column)
        found = sounds_of(data, self.column)
        for row in range(len(data)):
            check_sound(found[row], row, self.column, source)
        return found

    def encode(self, examples: list[Any], source: Pretrained, rows: list[int]) -> Encoded:
        extractor = source.feature_extractor
        waves = waves_of(examples, rows, self.column)
        # Some extractors, such as Whisper's, have a length of their own; others pad when asked.
        options = inspect.signature(type(extractor).__call__).parameters
        own = options["padding"].default if "padding" in options else None
        padding = {} if "padding" not in options or own else {"padding": True}
        found = extractor(
            waves, sampling_rate=extractor.sampling_rate, return_tensors="pt", **padding
        )
        inputs: dict[str, Tensor] = dict(found)
        return Encoded(inputs, _real(inputs, torch.tensor([len(wave) for wave in waves])))


def waves_of(sounds: list[Any], rows: list[int], column: str) -> list[np.ndarray]:
    """Decoded sounds of one channel, each float32 (samples,).

    Raises:
        ValueError: one cannot be decoded.
    """
    import soundfile

    waves = []
    for row, sound in zip(rows, sounds, strict=True):
        with decoding(sound, _place(row, column)) as file:
            waves.append(soundfile.read(file, dtype="float32")[0])
    return waves


def _place(row: int, column: str) -> str:
    return f"the sound in row {row} of column {column!r}"


def check_sound(sound: Any, row: int, column: str, source: Pretrained) -> None:
    """Raise ValueError unless a file of sound fits the model; reads its header only."""
    import soundfile

    place = _place(row, column)
    with decoding(sound, place) as file:
        header = soundfile.info(file)
    extractor = source.feature_extractor
    if header.samplerate != extractor.sampling_rate or header.channels != 1:
        raise ValueError(
            f"{place} has {header.samplerate} samples a second and {header.channels} channels; "
            f"model {source.name!r} takes {extractor.sampling_rate} and one: resample it before"
        )
    longest = getattr(extractor, "n_samples", None)
    if not header.frames or (longest is not None and header.frames > longest):
        most = "any number above 0" if longest is None else f"1..{longest}"
        raise ValueError(
            f"{place} has {header.frames} samples; model {source.name!r} takes {most}: cut it, or "
            "leave the row out"
        )


def _real(inputs: dict[str, Tensor], lengths: Tensor) -> dict[int | str, Tensor]:
    """The real positions of inputs that have as many positions as there are samples, or frames of
    which a mask says which are real."""
    mask = inputs.get("attention_mask")
    if mask is not None:
        real = mask.bool()
        return {name: real for name, value in inputs.items() if value.shape[:2] == real.shape}
    longest = int(lengths.max())
    real = torch.arange(longest) < lengths[:, None]
    return {name: real for name, value in inputs.items() if value.shape == real.shape}
