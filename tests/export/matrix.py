"""The table of docs/which-format.md: what each format makes of each form.

    PYTHONPATH=.:tests python tests/export/matrix.py

prints it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from forms import FORMS
from torch import nn

import lowrank
from lowrank.files.extras import MissingExtra

# Two matrices, of widths that groups of 32 divide.
LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")
SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}


@cache
def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


@cache
def compressed(form: str) -> nn.Module:
    return lowrank.compress(llama(), FORMS[form], where=lowrank.Select(include=LAYERS)).model


# Head of a column → a format and its options; the small Llama has no tokenizer.
COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {
    "`dense`": ("dense", {}),
    "`plain`": ("plain", {}),
    "`hf`": ("hf", {"tokenizer": None}),
    "`hf`, `code=True`": ("hf", {"tokenizer": None, "code": True}),
    "`gguf`": ("gguf", {"tokenizer": None}),
    "`onnx`": ("onnx", {}),
    "`torch_export`": ("torch_export", {}),
}


def cells(format: str, **options: Any) -> dict[str, str]:
    """Form → what the format makes of its layers."""
    return {form: cell(form, format, **options) for form in FORMS}


def cell(form: str, format: str, **options: Any) -> str:
    try:
        plan = lowrank.plan_export(compressed(form), format, **options)
    except MissingExtra:
        raise
    except ValueError:
        return "refused"
    lost = len(plan.multiplied_out)
    if not lost:
        return "kept"
    return "multiplied out" if lost == len(plan.layers) else "partly kept"


def table() -> str:
    """The table as Markdown."""
    columns = {head: cells(format, **options) for head, (format, options) in COLUMNS.items()}
    head = ["form", *columns]
    rows = [[form, *(column[form] for column in columns.values())] for form in FORMS]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table())
