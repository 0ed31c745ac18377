"""The architectures that GGUF files are written and read of: their metadata, and the order of their
rows.

Source: the names and keys of llama.cpp, as `gguf.constants` lists them; the order of rows by its
``convert_hf_to_gguf.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GgufArchitecture:
    """An architecture of llama.cpp, and the models of transformers that are one.

    Attributes:
        model: the class in transformers.
        model_type: of its config, which is the name of the architecture too.
        settings: fields of the config, and the one value of each with which llama.cpp computes the
            same.
        metadata: further keys, without the prefix, and their values.
        turned: the tensors whose rows are in another order, and the field of the config that says
            how many heads they have.
    """

    model: str
    model_type: str
    settings: dict[str, Any]
    metadata: Callable[[Any], dict[str, int]]
    turned: dict[str, str] = field(default_factory=dict)

    def check(self, config: Any) -> None:
        """Raise ValueError for a config that llama.cpp would not compute the same with."""
        rope = config.rope_parameters["rope_type"]
        found = {name: getattr(config, name, known) for name, known in self.settings.items()}
        wrong = {name: one for name, one in found.items() if one != self.settings[name]}
        if rope != "default":
            wrong["rope_type"] = rope
        if wrong:
            allowed = {name: (self.settings | {"rope_type": "default"})[name] for name in wrong}
            raise ValueError(
                f"GGUF cannot hold this {self.model_type}, whose config has {wrong}: written are "
                f"models with {allowed}"
            )

    def keys(self, config: Any) -> dict[str, int | float]:
        """The metadata of a model, by their keys."""
        shared: dict[str, int | float] = {
            "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers,
            "feed_forward_length": config.intermediate_size,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
            "rope.freq_base": float(config.rope_parameters["rope_theta"]),
            "vocab_size": config.vocab_size,
        }
        values = shared | self.metadata(config)
        return {f"{self.model_type}.{key}": value for key, value in values.items()}

    def order(self, tensor: str, rows: int, config: Any) -> Tensor | None:
        """The places of the rows of a tensor in the model, in their order in the file, if that is
        another one.

        llama.cpp turns neighbouring pairs of an attention head, transformers its two halves.

        Args:
            tensor: its name in GGUF, such as ``blk.0.attn_q.weight``.
        """
        heads_of = next(
            (self.turned[end] for end in self.turned if tensor.endswith(f".{end}")), None
        )
        if heads_of is None:
            return None
        heads = getattr(config, heads_of)
        return torch.arange(rows).view(heads, 2, -1).transpose(1, 2).flatten()


def _llama_sizes(config: Any) -> dict[str, int]:
    keys = ("rope.dimension_count", "attention.key_length", "attention.value_length")
    return dict.fromkeys(keys, config.head_dim)


def _no_sizes(config: Any) -> dict[str, int]:
    del config
    return {}


# The names of layers in GGUF → those in the model; within a block, and outside.
INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_BLOCK = re.compile(r"blk\.(\d{1,6})\.(\w+)")


def name_in_model(name: str) -> str | None:
    """The name in the model of a tensor of GGUF; None if no such model has it."""
    stem, _, last = name.rpartition(".")
    block = IN_BLOCK.fullmatch(stem)
    layer = OUTSIDE.get(stem)
    if block is not None and block[2] in INSIDE:
        layer = f"model.layers.{int(block[1])}.{INSIDE[block[2]]}"
    return None if layer is None or last not in ("weight", "bias") else f"{layer}.{last}"


ARCHITECTURES = (
    GgufArchitecture(
        "LlamaForCausalLM",
        "llama",
        {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
        _llama_sizes,
        turned={
            "attn_q.weight": "num_attention_heads",
            "attn_k.weight": "num_key_value_heads",
        },
    ),
    GgufArchitecture(
        "Qwen2ForCausalLM",
        "qwen2",
        {"hidden_act": "silu", "use_sliding_window": False, "head_dim": None},
        _no_sizes,
    ),
)


def architecture_of(model: nn.Module) -> GgufArchitecture:
    """The architecture of a model.

    Raises:
        ValueError: none that is written, or with settings that llama.cpp does not know.
    """
    name = type(model).__name__
    found = next((one for one in ARCHITECTURES if one.model == name), None)
    config: Any = getattr(model, "config", None)
    if found is None or getattr(config, "model_type", None) != found.model_type:
        known = [one.model for one in ARCHITECTURES]
        raise ValueError(f"GGUF is written of {known} of transformers, and this is a {name}")
    found.check(config)
    return found
