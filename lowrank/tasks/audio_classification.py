"""Audio classification: any labelled clips, any network, trained here or published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowrank.model.batch import Batch
from lowrank.tasks.audio_sources import Clips, HubClips
from lowrank.tasks.builders import import_builder
from lowrank.tasks.hub_sources import Part
from lowrank.tasks.own_classifier import OwnClassifier
from lowrank.tasks.splits import ValidationFrom, check_text, named
from lowrank.tasks.task import Split
from lowrank.tasks.weights import Weights

# Clips whose features are computed at a time.
AT_ONCE = 64


@dataclass(frozen=True)
class Features:
    """What a network gets of labelled clips: float32 (count, …)."""

    inputs: Tensor
    labels: Tensor
    classes: int | None


@dataclass(frozen=True)
class FeatureSplit(Split):
    """Rows of features."""

    features: Features
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> Batch:
        rows = self.rows[rows.to(self.rows.device)]
        return Batch((self.features.inputs[rows],), self.features.labels[rows])


@dataclass(frozen=True)
class AudioClassification(OwnClassifier):
    """A network that classifies clips of sound by their features, such as a spectrogram.

    The splits and further options are those of `OwnClassifier`.

    Args:
        name: the name of the task in records; the dataset's if None.
        architecture: the network's name in records.
        source: the clips.
        features: ``package.module:function`` from waveforms (batch, samples) to what the network
            takes, such as `lowrank.tasks.spectrograms:keyword_mels`. They are computed once and are
            no part of the model that is compressed.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
            It maps a batch of features to logits (batch, classes).
        weights: the source of the network's weights; None keeps those of the builder.
        seed: the seed of the initial weights and the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, features or a network that do not
            fit the data, or weights that do not fit the network.
    """

    units = "clips"

    name: str | None  # never None after __post_init__
    architecture: str
    source: HubClips
    features: str
    builder: str
    weights: Weights | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    validation_size: int | None = None
    validation_from: ValidationFrom = "train"
    calibration_size: int | None = None
    calibration_seed: int | None = None
    split_seed: int = 0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not isinstance(self.source, HubClips):
            raise ValueError(f"source={self.source!r} must be HubClips")
        object.__setattr__(self, "name", named(self.name, self.source.name))
        check_text("features", self.features)
        self._check_options()

    def _read(self, part: Part) -> Features:
        found: Clips = self.source.read(part)
        compute = import_builder(self.features)
        with torch.no_grad():
            inputs = torch.cat([compute(waves) for waves in found.waves.split(AT_ONCE)])
        if len(inputs) != len(found.labels):
            raise ValueError(
                f"features {self.features} gives {tuple(inputs.shape)} for {len(found.labels)} "
                "clips: the first axis must be that of the clips"
            )
        return Features(inputs.to(self.device), found.labels.to(self.device), found.classes)

    def _rows(self, data: Features, rows: Tensor) -> FeatureSplit:
        return FeatureSplit(data, rows.to(self.device))
