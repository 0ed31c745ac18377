"""Folders of small models of transformers, of random numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


def llama(folder: Path) -> Path:
    """In bfloat16, in several shards."""
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, vocab_size=99)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def tied_gpt2(folder: Path) -> Path:
    """In float32, in one file, with biases, weights that lie transposed, and a tied head."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=99, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
