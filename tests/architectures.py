"""Tiny random models of many architectures, and what is known of each beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

IDS = torch.arange(12).view(2, 6) + 3
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
TEXT = {"input_ids": IDS, "attention_mask": MASK}
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Architecture:
    """A tiny random model, and what is known of it beforehand.

    Attributes:
        model, config: class names in `transformers`.
        settings: of the config.
        inputs: by name, of two examples.
        layers: how many weights can be compressed.
        tied: names of the modules that share one weight.
        tables: names of the weights that embedding tables use.
        head: the name of the last weight.
        skipped: names of the matrices that no rule knows.
        generates: whether it can go on with a text.
    """

    model: str
    config: str
    settings: dict[str, Any]
    layers: int
    tables: set[str]
    head: str
    inputs: dict[str, Tensor] = field(default_factory=lambda: TEXT)
    tied: tuple[str, ...] = ()
    skipped: set[str] = field(default_factory=set)
    generates: bool = False

    def make(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        config = getattr(transformers, self.config)(**self.settings)
        return getattr(transformers, self.model)(config).eval()


GROUPED = SIZES | {"num_key_value_heads": 2}
TABLE = {"model.embed_tokens"}

ARCHITECTURES = {
    "Llama": Architecture(
        "LlamaForCausalLM", "LlamaConfig", SIZES, 16, TABLE, "lm_head", generates=True
    ),
    "Mistral": Architecture(
        *("MistralForCausalLM", "MistralConfig", GROUPED | {"sliding_window": 4}),
        *(16, TABLE, "lm_head"),
        generates=True,
    ),
    "Qwen2": Architecture(
        *("Qwen2ForCausalLM", "Qwen2Config", GROUPED | {"tie_word_embeddings": True}),
        *(15, TABLE, "model.embed_tokens"),
        tied=("model.embed_tokens", "lm_head"),
        generates=True,
    ),
    "Qwen3": Architecture(
        *("Qwen3ForCausalLM", "Qwen3Config", GROUPED | {"head_dim": 8}),
        *(16, TABLE, "lm_head"),
        generates=True,
    ),
    "OPT": Architecture(
        *("OPTForCausalLM", "OPTConfig", SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 12}),
        *(15, {"model.decoder.embed_tokens"}, "model.decoder.embed_tokens"),
        tied=("model.decoder.embed_tokens", "lm_head"),
        skipped={"model.decoder.embed_positions.weight"},
        generates=True,
    ),
    "GPT-2": Architecture(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32} | TOKENS,
        10,
        {"transformer.wte", "transformer.wpe"},
        "transformer.wte",
        tied=("transformer.wte", "lm_head"),
        generates=True,
    ),
    "GPT-NeoX": Architecture(
        *("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES | TOKENS),
        *(10, {"gpt_neox.embed_in"}, "lm_head"),
        generates=True,
    ),
    # Its linear layers have code of their own.
    "Falcon": Architecture(
        *("FalconForCausalLM", "FalconConfig", SIZES | TOKENS | {"alibi": False}),
        *(9, {"transformer.word_embeddings"}, "transformer.word_embeddings"),
        tied=("transformer.word_embeddings", "lm_head"),
        generates=True,
    ),
    "BERT": Architecture(
        *("BertForSequenceClassification", "BertConfig", SIZES, 17),
        {f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")},
        "classifier",
    ),
    "BERT, masked": Architecture(
        *("BertForMaskedLM", "BertConfig", SIZES, 16),
        {f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")},
        "bert.embeddings.word_embeddings",
        tied=("bert.embeddings.word_embeddings", "cls.predictions.decoder"),
    ),
    "T5": Architecture(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
        | {"decoder_start_token_id": 0},
        35,
        {"shared"}
        | {
            f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias"
            for part in ("encoder", "decoder")
        },
        "shared",
        inputs=TEXT | {"decoder_input_ids": IDS[:, :4]},
        tied=("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"),
        generates=True,
    ),
    "ViT": Architecture(
        "ViTForImageClassification",
        "ViTConfig",
        SIZES | {"image_size": 16, "patch_size": 4, "num_labels": 7},
        14,
        set(),
        "classifier",
        inputs={"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).sin().view(2, 3, 16, 16)},
        skipped={"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"},
    ),
    "Whisper": Architecture(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {"vocab_size": 40, "d_model": 16, "num_mel_bins": 8, "decoder_start_token_id": 1}
        | {f"{part}_layers": 2 for part in ("encoder", "decoder")}
        | {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
        | {f"{part}_ffn_dim": 24 for part in ("encoder", "decoder")}
        | {"max_source_positions": 10, "max_target_positions": 12}
        | TOKENS,
        36,
        # The positions of the encoder are a table that is added whole.
        {"model.decoder.embed_tokens", "model.encoder.embed_positions"},
        "model.decoder.embed_tokens",
        inputs={
            "input_features": torch.linspace(-1, 1, 2 * 8 * 20).sin().view(2, 8, 20),
            "decoder_input_ids": IDS,
        },
        tied=("model.decoder.embed_tokens", "proj_out"),
        skipped={"model.decoder.embed_positions.weight"},
        generates=True,
    ),
}


@cache
def dense(name: str) -> nn.Module:
    return ARCHITECTURES[name].make()


@torch.no_grad()
def logits(model: nn.Module, name: str) -> Tensor:
    return model(**ARCHITECTURES[name].inputs).logits
