"""The tokenizer that a GGUF file describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowrank.files.extras import need
from lowrank.reading.gguf_header import read_header


def tokenizer_in(path: Path) -> Any:
    """The tokenizer of a GGUF file, as transformers makes one of it.

    Raises:
        ValueError: no whole GGUF file, or one without a tokenizer that transformers reads.
        MissingExtra: a library that this needs is not installed.
    """
    need("the tokenizer of a GGUF file", "gguf", "transformers")
    # The libraries take memory for each item that a header claims to have, so it is checked first.
    read_header(path)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # Of many types, whatever is missing or broken.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} has no tokenizer that transformers reads: {reason}") from error
