"""The rows of the comparison: a runtime, and the files that it reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from experiments.benchmarks.exported_runtimes.runtimes import (
    OWN_FILE,
    Lowrank,
    OfGguf,
    OnnxRuntime,
    Packed,
    Runtime,
    TorchProgram,
    Transformers,
)
from lowrank import export_model, save
from lowrank.decomposers import Decomposer, Quantization, TruncatedSVD
from lowrank.export.skeleton import layers_of


@dataclass(frozen=True)
class Written:
    """The files of one model.

    Attributes:
        kept, layers: how many of the compressed layers keep their form, and how many there are.
        nbytes: of all files on the disk.
    """

    kept: int
    layers: int
    nbytes: int


@dataclass(frozen=True)
class RuntimeCase:
    """A runtime, and the files that it reads.

    Attributes:
        format: the name of an export; "" for lowrank's own file.
        stored: what the files hold, for the table.
        options: of the format.
        compressed: whether of the compressed model, or the dense one.
        traced: whether the format needs an example.
    """

    runtime: Runtime
    format: str
    stored: str
    options: tuple[tuple[str, Any], ...] = ()
    compressed: bool = True
    traced: bool = False

    @property
    def name(self) -> str:
        """The row in messages."""
        return f"{self.runtime.name}: {self.stored}"

    @property
    def folder(self) -> str:
        """The name of its folder, that of a module too: code in it is imported by transformers."""
        return re.sub(r"\W+", "_", self.name)

    def write(self, model: nn.Module, folder: Path, example: dict[str, Any]) -> Written:
        """Write the files, layers that the format does not hold as dense matrices.

        Raises:
            ValueError: a model that the format does not hold.
        """
        if self.format:
            options = dict(self.options) | ({"example": example} if self.traced else {})
            plan = export_model(model, self.format, folder, multiply_out=True, **options)
            layers = len(plan.layers)
            kept = layers - len(plan.multiplied_out)
        else:
            folder.mkdir()
            save(model, folder / OWN_FILE)
            kept = layers = len(layers_of(model))
        files = [path for path in folder.rglob("*") if path.is_file()]
        return Written(kept, layers, sum(path.stat().st_size for path in files))


BARE = (("tokenizer", None),)
# What all are set beside is the first that there is.
CASES = (
    RuntimeCase(Transformers(), "hf", "dense", BARE, compressed=False),
    RuntimeCase(TorchProgram(), "torch_export", "dense", compressed=False, traced=True),
    RuntimeCase(OnnxRuntime(), "onnx", "dense", compressed=False, traced=True),
    RuntimeCase(Lowrank(), "", "its own file"),
    RuntimeCase(Lowrank("lowrank, torch.compile", compiled=True), "", "its own file"),
    RuntimeCase(Packed(), "hf", "pack-quantized", BARE),
    RuntimeCase(Transformers(), "hf", "with its code", (*BARE, ("code", True))),
    RuntimeCase(OfGguf(), "gguf", "blocks", BARE),
    RuntimeCase(TorchProgram(), "torch_export", "forms", traced=True),
    RuntimeCase(OnnxRuntime(), "onnx", "DequantizeLinear", traced=True),
    RuntimeCase(OnnxRuntime(), "onnx", "MatMulNBits", (("matmul_nbits", True),), traced=True),
)
# The ways to compress the model, by their name on the command line.
METHODS: dict[str, Decomposer] = {
    "4bit": Quantization(bits=4, group_size=32),
    "8bit": Quantization(bits=8),
    "low_rank": TruncatedSVD(compression_ratio=2.0),
}
