"""Compress a model with llm-compressor; run by the Python of its environment, without lowrank.

    python llm_compressor_worker.py REQUEST.json

The request names the model's folder, a file of calibration tokens, the layers, the recipe, and the
file for the result: the compressed weights, with the facts about the run as JSON in its metadata.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM


def main() -> None:
    """Do what the request of the command line says."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    # As many as the program that compares has, so that seconds mean the same.
    torch.set_num_threads(request["threads"])
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32)
    build = {"gptq": gptq, "sparsegpt": pruning, "wanda": pruning}[request["recipe"]["kind"]]
    recipe = build(request["recipe"], request["layers"])
    tokens = load_file(request["tokens"])["tokens"]
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in tokens]
    started = time.perf_counter()
    oneshot(
        model=model,
        dataset=DataLoader(rows, batch_size=request["batch_size"]),  # type: ignore
        recipe=recipe,
        pipeline="sequential",
        num_calibration_samples=len(rows),
    )
    seconds = time.perf_counter() - started
    weights = {
        name: model.get_parameter(f"{name}.weight").detach().contiguous()
        for name in request["layers"]
    }
    facts = {
        "seconds": seconds,
        "held_bits": held_bits(model, request["layers"]),
    }
    save_file(weights, request["result"], metadata={"facts": json.dumps(facts)})


def gptq(settings: dict[str, Any], layers: list[str]) -> GPTQModifier:
    """GPTQ with the group size that each layer can have."""
    del layers
    groups = {
        f"group_{size}": QuantizationScheme(
            targets=[exactly(name) for name in names],
            weights=QuantizationArgs(
                num_bits=settings["bits"],
                symmetric=False,
                strategy="group",  # type: ignore
                group_size=size,
                scale_dtype=torch.float16,
            ),
        )
        for size, names in settings["groups"]
    }
    return GPTQModifier(config_groups=groups, actorder=settings["actorder"])


def pruning(settings: dict[str, Any], layers: list[str]) -> Any:
    """SparseGPT or Wanda."""
    modifier = {"sparsegpt": SparseGPTModifier, "wanda": WandaPruningModifier}[settings["kind"]]
    return modifier(
        sparsity=settings["sparsity"],
        mask_structure=settings["mask"],
        targets=[exactly(name) for name in layers],
    )


def exactly(name: str) -> str:
    """The pattern for one layer."""
    return f"re:^{re.escape(name)}$"


def held_bits(model: Any, layers: list[str]) -> dict[str, int]:
    """The bits of each layer's tensors in the files that the library saves."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_compressed=True)
        files = [load_file(path) for path in Path(folder).glob("*.safetensors")]
    saved = {name: tensor for file in files for name, tensor in file.items()}
    return {
        layer: sum(8 * t.nbytes for name, t in saved.items() if name.startswith(f"{layer}."))
        for layer in layers
    }


if __name__ == "__main__":
    main()
