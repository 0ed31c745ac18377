"""The tokenizer in a GGUF file, made of a fast tokenizer of transformers.

Source: the keys ``tokenizer.ggml.*`` of the specification of GGUF; how llama.cpp merges pieces of
text, by its ``llama-vocab.cpp``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE_TYPE = range(1, 7)
# Of a byte-level BPE, the name of the pattern by which llama.cpp splits text → the pattern.
GPT2 = "gpt-2"
SPLITS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@dataclass(frozen=True)
class GgufTokenizer:
    """A vocabulary as GGUF describes it.

    Attributes:
        model: ``llama`` (pieces with a score), or ``gpt2`` (byte-level BPE with merges).
        values: of further keys, without ``tokenizer.ggml.``.
        chat_template: in Jinja.
    """

    model: str
    tokens: list[str]
    types: list[int]
    values: dict[str, Any]
    chat_template: str | None

    def add_to(self, writer: Any) -> None:
        """Write the keys with a `gguf.GGUFWriter`."""
        writer.add_tokenizer_model(self.model)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        for key, value in self.values.items():
            _ADD[type(value)](writer, f"tokenizer.ggml.{key}", value)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


_ADD = {
    str: lambda writer, key, value: writer.add_string(key, value),
    int: lambda writer, key, value: writer.add_uint32(key, value),
    bool: lambda writer, key, value: writer.add_bool(key, value),
    list: lambda writer, key, value: writer.add_array(key, value),
}


def gguf_tokenizer(tokenizer: Any, rows: int) -> GgufTokenizer:
    """The tokenizer of a model with a table of `rows` tokens.

    Raises:
        ValueError: more tokens than rows, or a kind of tokenizer that GGUF does not describe.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"a {type(tokenizer).__name__} is no fast tokenizer of transformers")
    described = json.loads(backend.to_str())
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if max(vocabulary.values(), default=0) >= rows:
        raise ValueError(
            f"the tokenizer has tokens up to {max(vocabulary.values())}, and the model {rows}"
        )
    model = described["model"]
    if model["type"] == "BPE" and model.get("byte_fallback"):
        kind, values = "llama", _sentencepiece(described, rows)
    elif model["type"] == "BPE" and (split := _split_of(described)) is not None:
        kind, values = "gpt2", {"pre": split, "merges": _merges(model)}
    else:
        raise ValueError(
            f"GGUF is written of BPE with byte fallback, and of byte-level BPE that splits text as "
            f"{[GPT2, *SPLITS]} do; this tokenizer is another {model['type']}"
        )
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [UNUSED] * rows
    added = {token["content"]: token["special"] for token in described["added_tokens"]}
    for token, index in vocabulary.items():
        tokens[index] = token
        types[index] = _type_of(token, added, tokenizer.unk_token, kind)
    template = tokenizer.chat_template
    return GgufTokenizer(
        *(kind, tokens, types, values | _specials(tokenizer)),
        template if isinstance(template, str) else None,
    )


def _type_of(token: str, added: dict[str, bool], unknown: str | None, kind: str) -> int:
    if kind == "llama" and token == unknown:
        return UNKNOWN
    if kind == "llama" and BYTE.fullmatch(token):
        return BYTE_TYPE
    if token in added:
        return CONTROL if added[token] else USER_DEFINED
    return NORMAL


def _specials(tokenizer: Any) -> dict[str, Any]:
    """The special tokens, and which of them every text gets."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {key: getattr(tokenizer, f"{name}_token_id") for name, key in names.items()}
    encoded = tokenizer("a").input_ids
    begins = ids["bos"] is not None and encoded[:1] == [ids["bos"]]
    ends = ids["eos"] is not None and encoded[-1:] == [ids["eos"]]
    found = {f"{key}_token_id": int(value) for key, value in ids.items() if value is not None}
    return found | {"add_bos_token": begins, "add_eos_token": ends}


def _sentencepiece(described: dict[str, Any], rows: int) -> dict[str, Any]:
    """The scores of pieces, by which llama.cpp chooses the next two to merge: any that make one."""
    vocabulary, merges = described["model"]["vocab"], described["model"]["merges"]
    pairs = {
        (token[:i], token[i:])
        for token in vocabulary
        for i in range(1, len(token))
        if token[:i] in vocabulary and token[i:] in vocabulary
    }
    ranks: dict[str, int] = {}
    order = [ranks.setdefault(a + b, len(ranks)) for a, b in merges]
    if pairs != {(a, b) for a, b in merges} or order != sorted(order):
        raise ValueError(
            "this tokenizer is no vocabulary of sentencepiece, in which any two pieces merge that "
            "make another one: llama.cpp would split text in another way"
        )
    scores = [0.0] * rows
    for token, rank in ranks.items():
        scores[vocabulary[token]] = -1.0 - rank
    text = json.dumps([described["normalizer"], described["pre_tokenizer"]])
    is_prefixed = '"Prepend"' in text or '"prepend_scheme": "first"' in text
    is_prefixed = is_prefixed or '"prepend_scheme": "always"' in text
    # In llama.cpp all sentencepiece vocabularies split text alike.
    return {"pre": "default", "scores": scores, "add_space_prefix": is_prefixed}


def _split_of(described: dict[str, Any]) -> str | None:
    """The name of the pattern by which a byte-level BPE splits text; None for another one."""
    first = described["pre_tokenizer"] or {}
    parts = first.get("pretokenizers", [first])
    if any(part.get("add_prefix_space") for part in parts) or not parts:
        return None
    kinds = [part.get("type") for part in parts]
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return GPT2
    if kinds != ["Split", "ByteLevel"] or parts[1].get("use_regex", True):
        return None
    pattern = parts[0]["pattern"].get("Regex")
    return next((name for name, known in SPLITS.items() if known == pattern), None)


def _merges(model: dict[str, Any]) -> list[str]:
    # Pieces of a byte-level BPE have no blanks in them.
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
