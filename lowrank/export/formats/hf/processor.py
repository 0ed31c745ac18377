"""What turns texts, images or sounds into the inputs of a model: its tokenizer or processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

WITHOUT = (
    "Give tokenizer=<a folder, a name on the hub or a GGUF file>, or tokenizer=None to leave it "
    "out, on the command line --no-tokenizer"
)


def processor_of(model: nn.Module, given: str | Path) -> Any:
    """The processor of a model, or its tokenizer where it has no other part.

    Args:
        given: a folder or a name on the hub, or a GGUF file; empty for that of the model itself.

    Raises:
        ValueError: there is none; the text says what to give.
    """
    from transformers import AutoProcessor

    from lowrank.reading.gguf_vocabulary import tokenizer_in
    from lowrank.tasks import hub
    from lowrank.tasks.read_compressed import GGUF, gguf_file

    named = str(given) or str(getattr(model, "name_or_path", ""))
    if not named:
        raise ValueError(
            f"this {type(model).__name__} does not say where its tokenizer is. {WITHOUT}"
        )
    try:
        if named.endswith(GGUF):
            return tokenizer_in(gguf_file(named))
        source = hub.model_path(named)
    except ValueError as error:
        raise ValueError(f"{error}. {WITHOUT}") from error
    try:
        # Otherwise the library asks in the terminal whether code that comes with it may run.
        return AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # Of many types, whatever is missing or broken.
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"no tokenizer or processor is in {named!r}: {reason}. {WITHOUT}") from (
            error
        )
