"""Texts that describe classes, as token ids, run in groups of one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lowrank.tasks.pretrained import Pretrained


def prompt_ids(source: Pretrained, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text, by the tokenizer of a model.

    Raises:
        ValueError: the model has too few positions, or the tokenizer does not fit it.
    """
    found = source.tokenizer(list(texts), verbose=False)["input_ids"]
    source.check_length("the longest prompt", max(map(len, found)))
    source.check_ids(torch.tensor([number for ids in found for number in ids]))
    return found  # type: ignore[return-value]


def by_length(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The places of the prompts of each length, the shortest first: none is padded with others."""
    lengths = sorted({len(ids) for ids in prompts})
    return [[at for at, ids in enumerate(prompts) if len(ids) == length] for length in lengths]
