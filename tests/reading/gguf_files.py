"""GGUF files as llama.cpp writes them: its own keys, its order of rows, blocks by its package."""

import struct

import gguf
import numpy as np

INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def name_of(name):
    stem, _, last = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{last}"
    _, _, block, layer = stem.split(".", 3)
    return f"blk.{block}.{INSIDE[layer]}.{last}"


def turned(matrix, heads):
    """The order of rows of ``convert_hf_to_gguf.py``."""
    return matrix.reshape(heads, 2, -1, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def write(path, model, kinds, **more):
    """A file of a Llama or Qwen2 whose matrices are of these types, by name; others are F16.

    Args:
        more: keys without the prefix, to add or to replace.
    """
    config = model.config
    arch = config.model_type
    writer = gguf.GGUFWriter(path, arch)
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    for key, value in (keys | more).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{arch}.{key}", value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(config.vocab_size)])
    writer.add_token_scores([0.0] * config.vocab_size)
    for name, tensor in model.state_dict().items():
        values = tensor.float().numpy()
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if arch == "llama" and ("q_proj.w" in name or "k_proj.w" in name):
            key = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
            values = turned(values, getattr(config, key))
        stem = name.rpartition(".")[0].rpartition(".")[2]
        kind = gguf.GGMLQuantizationType[kinds.get(stem, "F16") if values.ndim > 1 else "F32"]
        writer.add_tensor(name_of(name), gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def header(values=(), tensors=(), counts=None, version=3):
    """The bytes of a header, which may say anything.

    Args:
        values: (key, type, bytes).
        tensors: (name, shape, type, offset).
        counts: those that it claims.
    """
    counts = counts or (len(tensors), len(values))
    found = b"GGUF" + struct.pack("<IQQ", version, *counts)
    for key, kind, data in values:
        found += text(key) + struct.pack("<I", kind) + data
    for name, shape, kind, offset in tensors:
        found += text(name) + struct.pack("<I", len(shape))
        found += np.array(shape, dtype="<u8").tobytes() + struct.pack("<IQ", kind, offset)
    return found


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(value)) + value
