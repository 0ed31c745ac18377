"""What became of a checkpoint that was compressed on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowrank.compression.layer_report import LayerReport
from lowrank.compression.report import Reported


@dataclass
class CompressedCheckpoint(Reported):
    """A folder with a compressed model, and what was done to each of its weights.

    Attributes:
        folder: `lowrank.load` reads it.
        layers: one report for each compressed weight, in the order of the model.
        skipped: (name, reason) of every weight matrix that nobody asked to compress.
        left: (name, reason) of every selected weight that could not be compressed as asked, and
            stays as it is.
        model_params: the parameters of the dense model.
        nbytes: of the numbers in the folder.
    """

    folder: Path
    layers: list[LayerReport]
    skipped: list[tuple[str, str]]
    left: list[tuple[str, str]]
    model_params: int
    nbytes: int
