"""The config of transformers that the metadata of a GGUF file describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank.files.fields import Fields
from lowrank.reading.gguf_architectures import ARCHITECTURES, GgufArchitecture
from lowrank.reading.gguf_header import GgufHeader

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The keys of which a config is made.
SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
HEADS = ("rope.dimension_count", "attention.key_length", "attention.value_length")
OTHERS = (
    *("attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.freq_base"),
    "vocab_size",
)
# Further ones, and the one value of each with which the model computes the same.
PLAIN = {
    "rope.scaling.type": "none",
    "rope.scale_linear": 1.0,
    "attention.sliding_window": 0,
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "tensor_data_layout": "Meta AI original pth",
}
ROPE_BASE = 10000.0  # Where a file does not say.


def architecture_in(header: GgufHeader) -> GgufArchitecture:
    """The architecture that a file names.

    Raises:
        ValueError: none that is read.
    """
    known = {one.model_type: one for one in ARCHITECTURES}
    fields = Fields(header.metadata, "the metadata")
    return known[fields.one_of("general.architecture", known)]


def config_in(header: GgufHeader) -> PretrainedConfig:
    """The config of the model of a file.

    Raises:
        ValueError: an architecture or a setting that is not read, a key that is missing or of
            another type, or more layers than tensors.
    """
    architecture = architecture_in(header)
    prefix = f"{architecture.model_type}."
    own = {
        key.removeprefix(prefix): value
        for key, value in header.metadata.items()
        if key.startswith(prefix)
    }
    fields = Fields(own, f"the metadata {prefix}*")
    _check_known(fields)
    values: dict[str, Any] = {name: fields.integer(key, 1) for key, name in SIZES.items()}
    heads, width = values["num_attention_heads"], values["hidden_size"]
    head = width // heads
    for key in (key for key in HEADS if key in fields):
        head = fields.integer(key, 1)
    for key in (key for key in HEADS if key in fields and fields[key] != head):
        fields.refuse(key, fields[key], f"{head}, as the others of {HEADS}")
    if values["num_hidden_layers"] > len(header.tensors):
        raise ValueError(f"it has {values['num_hidden_layers']} layers, and fewer tensors")
    table = header.tensors.get("token_embd.weight")
    if table is None:
        raise ValueError("it has no tensor 'token_embd.weight'")
    if table.shape[1:] != (width,):
        raise ValueError(f"'{table.name}' is {table.shape} in the file, and has {width} columns")
    base = fields.number("rope.freq_base", 0) if "rope.freq_base" in fields else ROPE_BASE
    values |= {
        "num_key_value_heads": fields.integer("attention.head_count_kv", 1)
        if "attention.head_count_kv" in fields
        else heads,
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon", 0),
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "vocab_size": table.shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    if head * heads != width or architecture.settings.get("head_dim", head) is not None:
        values["head_dim"] = head
    return _made(architecture, values)


def _check_known(fields: Fields) -> None:
    for key, value in fields.items():
        if key in PLAIN and value != PLAIN[key]:
            fields.refuse(key, value, f"{PLAIN[key]!r}")
        if key not in PLAIN and key not in (*SIZES, *HEADS, *OTHERS):
            fields.refuse(key, value, "absent: what it means is not known here")


def _made(architecture: GgufArchitecture, values: dict[str, Any]) -> PretrainedConfig:
    import transformers

    kind = getattr(transformers, architecture.model).config_class
    try:
        config = kind(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"no model has such metadata: {error}") from error
    architecture.check(config)
    config.architectures = [architecture.model]
    return config
