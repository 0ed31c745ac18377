"""Runtimes that load one model from its files and run it.

This module imports none of them before they load something, so that a process has the libraries of
one runtime alone.
"""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

# Inputs by name → the first output; tensors of PyTorch or arrays of NumPy.
Run = Callable[[dict[str, Any]], Any]
Network = Callable[[], Any] | None
# The name of lowrank's own file.
OWN_FILE = "model.safetensors"


class Runtime(ABC):
    """A tool that runs a model.

    Attributes:
        name: in the table.
        libraries: the imports that it needs.
        builds: whether it builds the model of its class, in the module of which that is.
    """

    name: str
    libraries: ClassVar[tuple[str, ...]] = ()
    builds: ClassVar[bool] = False

    def missing(self) -> str:
        """What is not installed; "" if nothing is."""
        found = [one for one in self.libraries if importlib.util.find_spec(one) is None]
        return f"{' and '.join(found)} not installed" if found else ""

    @abstractmethod
    def load(self, folder: Path, network: Network, threads: int) -> Run:
        """The run of the model in a folder.

        Args:
            network: makes a dense model of its architecture, where no file describes one.
            threads: that it may use.
        """


@dataclass(frozen=True)
class Transformers(Runtime):
    """`from_pretrained` of the class that the config names; code of the folder may run."""

    libraries = ("torch", "transformers")
    builds = True

    name: str = "transformers"
    file: str | None = None

    def load(self, folder: Path, network: Network, threads: int) -> Run:
        import transformers

        if self.file is not None:
            cls: Any = transformers.AutoModelForCausalLM
            return of_module(cls.from_pretrained(folder, gguf_file=self.file))
        config = json.loads((folder / "config.json").read_text("utf-8"))
        options: dict[str, Any] = {}
        name = config["architectures"][0]
        if "auto_map" in config:
            name, options = next(iter(config["auto_map"])), {"trust_remote_code": True}
        return of_module(getattr(transformers, name).from_pretrained(folder, **options))


@dataclass(frozen=True)
class Packed(Transformers):
    """`from_pretrained` with the library compressed-tensors."""

    libraries = ("torch", "transformers", "compressed_tensors")

    name: str = "transformers, compressed-tensors"


@dataclass(frozen=True)
class OfGguf(Transformers):
    """`from_pretrained` of a file of GGUF, which it multiplies out."""

    libraries = ("torch", "transformers", "gguf", "accelerate")

    name: str = "transformers, GGUF"
    file: str | None = "model.gguf"


@dataclass(frozen=True)
class OnnxRuntime(Runtime):
    """A session of onnxruntime on the CPU."""

    libraries = ("numpy", "onnxruntime")

    name: str = "onnxruntime"

    def load(self, folder: Path, network: Network, threads: int) -> Run:
        import numpy
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            folder / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        first = session.get_outputs()[0].name

        def run(inputs: dict[str, Any]) -> Any:
            arrays = {name: numpy.asarray(value) for name, value in inputs.items()}
            return session.run([first], arrays)[0]

        return run


@dataclass(frozen=True)
class TorchProgram(Runtime):
    """A program of `torch.export`, run by PyTorch alone."""

    libraries = ("torch",)

    name: str = "torch.export"

    def load(self, folder: Path, network: Network, threads: int) -> Run:
        import torch

        module = torch.export.load(folder / "model.pt2").module()
        return lambda inputs: first(module(**inputs))


@dataclass(frozen=True)
class Lowrank(Runtime):
    """`lowrank.load`, as it is or compiled."""

    libraries = ("torch", "lowrank", "lowrank.export.checkpoint")
    builds = True

    name: str = "lowrank"
    compiled: bool = False

    def load(self, folder: Path, network: Network, threads: int) -> Run:
        import torch

        import lowrank

        model = lowrank.load(folder / OWN_FILE, network)
        return of_module(model, torch.compile if self.compiled else lambda model: model)


def of_module(model: Any, made: Callable[[Any], Any] = lambda model: model) -> Run:
    """The run of a module in evaluation mode, without a cache of keys and values.

    Args:
        made: of it before it runs.
    """
    if hasattr(model, "config"):
        model.config.use_cache = False
    ready = made(model.eval())
    return lambda inputs: first(ready(**inputs))


def first(outputs: Any) -> Any:
    """The first of the outputs of a model."""
    if isinstance(outputs, dict):
        return next(iter(outputs.values()))
    return outputs[0] if isinstance(outputs, tuple | list) else outputs
