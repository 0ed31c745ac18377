"""GPTQ, SparseGPT and Wanda by llm-compressor, which lives in an environment of its own.

It pins another `transformers`, so its work is done by `llm_compressor_worker.py` in a process that
its own Python runs; files carry the calibration tokens there and the weights back.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from experiments.benchmarks.peer_methods.method import (
    Kept,
    Method,
    Outcome,
    Subject,
    divisor_near,
    in_half,
    quantized_bits,
    sparse_bits,
)

WORKER = Path(__file__).with_name("llm_compressor_worker.py")
BATCH = 8


@dataclass(frozen=True)
class LLMCompressor(Method):
    """One recipe of llm-compressor, block by block on the outputs of the compressed ones before.

    Args:
        python: the interpreter of an environment with llmcompressor; None: there is none.
    """

    python: Path | None

    @property
    def name(self) -> str:
        return "llm-compressor"

    def missing(self) -> str:
        return missing_interpreter(self.python)

    @abstractmethod
    def recipe(self, subject: Subject) -> dict[str, Any]:
        """The settings of the worker's recipe: "kind" and the fields of that kind."""

    @abstractmethod
    def bits(self, weight: Tensor) -> int:
        """The bits of a stored compressed weight."""

    @abstractmethod
    def as_stored(self, weight: Tensor) -> Tensor:
        """The compressed weight with its values as they are counted."""

    def compress(self, subject: Subject) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            weights, facts = self._work(subject, Path(folder))
        kept = {
            name: Kept(self.as_stored(weight), self.bits(weight), int(facts["held_bits"][name]))
            for name, weight in weights.items()
        }
        return Outcome(kept, float(facts["seconds"]))

    def _work(self, subject: Subject, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        save_file({"tokens": subject.tokens.contiguous()}, folder / "tokens.safetensors")
        request = {
            "model": str(subject.folder),
            "tokens": str(folder / "tokens.safetensors"),
            "batch_size": BATCH,
            "threads": torch.get_num_threads(),
            "layers": list(subject.layers),
            "recipe": self.recipe(subject),
            "result": str(folder / "result.safetensors"),
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        run(self.python, WORKER, folder / "request.json", cwd=folder)
        with safe_open(request["result"], framework="pt") as result:
            facts = json.loads(result.metadata()["facts"])
            return {name: result.get_tensor(name) for name in subject.layers}, facts


@dataclass(frozen=True)
class LLMCompressorGPTQ(LLMCompressor):
    """Its `GPTQModifier`, with zero points and 16-bit scales.

    Args:
        bits_per_code: of a code, and of a zero point.
        group_size: consecutive inputs that share a scale, or the divisor of a layer's inputs
            nearest to it; the tool refuses one that does not divide.
        actorder: whether columns are quantized in the order of their inputs' strength; groups stay
            those of consecutive inputs.
    """

    bits_per_code: int
    group_size: int
    actorder: bool

    def recipe(self, subject: Subject) -> dict[str, Any]:
        groups: dict[int, list[str]] = {}
        for name, weight in subject.weights().items():
            groups.setdefault(divisor_near(weight.shape[1], self.group_size), []).append(name)
        return {
            "kind": "gptq",
            "bits": self.bits_per_code,
            "actorder": "static" if self.actorder else None,
            "groups": [[size, names] for size, names in groups.items()],
        }

    def bits(self, weight: Tensor) -> int:
        groups = weight.numel() // divisor_near(weight.shape[1], self.group_size)
        return quantized_bits(weight.numel(), self.bits_per_code, groups, self.bits_per_code)

    def as_stored(self, weight: Tensor) -> Tensor:
        # Its scales are 16-bit numbers already, and its codes integers.
        return weight


@dataclass(frozen=True)
class LLMCompressorPruning(LLMCompressor):
    """Its `SparseGPTModifier` or `WandaPruningModifier`.

    Args:
        kind: ``sparsegpt`` or ``wanda``.
        sparsity: share of the weights that become zero.
        mask: ``0:0`` for single weights, N:M for N of every M.
    """

    kind: str
    sparsity: float
    mask: str = "0:0"

    def recipe(self, subject: Subject) -> dict[str, Any]:
        return {"kind": self.kind, "sparsity": self.sparsity, "mask": self.mask}

    def bits(self, weight: Tensor) -> int:
        return sparse_bits(weight)

    def as_stored(self, weight: Tensor) -> Tensor:
        return in_half(weight)


def missing_interpreter(python: Path | None) -> str:
    """The step that is missing if there is no such interpreter or llm-compressor; "" if none."""
    if python is None:
        return (
            "no environment with llm-compressor is given: make one (python -m venv DIR, then "
            "DIR/bin/pip install llmcompressor) and give --llmcompressor DIR/bin/python"
        )
    if not python.is_file():
        return f"--llmcompressor {python} is no file: give the Python of its environment"
    look = "import importlib.util as u, sys; sys.exit(u.find_spec('llmcompressor') is None)"
    if subprocess.run([python, "-c", look], check=False).returncode != 0:
        return f"{python} has no llm-compressor: {python} -m pip install llmcompressor"
    return ""


def version(python: Path) -> str:
    """The version of llm-compressor in the environment of that interpreter."""
    ask = "from importlib.metadata import version; print(version('llmcompressor'))"
    return subprocess.run([python, "-c", ask], capture_output=True, check=True, text=True).stdout[
        :-1
    ]


def run(python: Path | None, *arguments: Path, cwd: Path) -> None:
    """Run a program; its output is shown only if it fails.

    Raises:
        RuntimeError: it failed.
    """
    assert python is not None
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        raise RuntimeError(f"{' '.join(command)} failed with exit status {done.returncode}")
