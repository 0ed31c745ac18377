"""Attention masks and the padding that they mark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Names of masks in which 1 or True marks a real position, each with the prefix of the names of the
# tensors that it is for. In ``…key_padding_mask`` of torch True marks padding, and the prefix is
# the part before it.
PREFIXES = {
    "attention_mask": "",
    "mask": "",
    "decoder_attention_mask": "decoder",
    "encoder_attention_mask": "encoder",
}
INVERTED = "key_padding_mask"


def is_mask(name: str) -> bool:
    """Whether the name of an argument is that of a mask, of padding or of anything else."""
    return "mask" in name


def prefix_of(name: str) -> str | None:
    """The prefix of the names of the tensors that a padding mask is for; None if `name` is not that
    of a padding mask.
    """
    if name.endswith(INVERTED):
        return name.removesuffix(INVERTED).rstrip("_")
    return PREFIXES.get(name)


def visible(name: str, mask: Tensor) -> Tensor | None:
    """The positions that a mask lets attention see, bool of the mask's shape; None if its values
    have no known meaning.

    A mask holds bools or 0 and 1; numbers of segments, with 0 for padding; or terms added to the
    attention scores, 0 for a visible position and negative for a hidden one.
    """
    inverted = name.endswith(INVERTED)
    if mask.dtype == torch.bool:
        return ~mask if inverted else mask
    if not bool((mask > 0).any()) and (mask.is_floating_point() or bool((mask < 0).any())):
        return mask.double().exp() > torch.finfo(torch.float32).eps
    if not mask.is_floating_point() and not bool((mask < 0).any()):
        return (mask == 0) if inverted else (mask != 0)
    if not inverted and bool(((mask == 0) | (mask == 1)).all()):
        return mask != 0
    return None


def real_keys(shown: Tensor) -> Tensor:
    """The keys (batch, keys) that at least one query sees, from a mask (batch, …, keys)."""
    return shown if shown.ndim == 2 else shown.flatten(1, -2).any(dim=1)


def is_causal(shown: Tensor) -> bool:
    """Whether a square mask is causal: it marks each position and those before it, or the positions
    after it.
    """
    if shown.ndim != 2 or shown.shape[0] != shown.shape[1] or len(shown) < 2:
        return False
    lower = torch.ones_like(shown, dtype=torch.bool).tril()
    return torch.equal(shown, lower) or torch.equal(shown, ~lower)


def placed(positions: torch.Size, streams: Sequence[Tensor]) -> Tensor | None:
    """The real positions of a layer's input, bool (positions,); None if they cannot be determined.

    They are determined if exactly one stream has the shape of `positions`. For a single example the
    shape is (1, length), (length,) or (length, 1); for several examples it is (batch, length) or
    (length, batch), unless the two are equal.

    Args:
        streams: bool (batch, length) each.
    """
    fitting = []
    for real in streams:
        batch, length = real.shape
        turned = positions == (length, batch)
        if batch == 1 and (turned or positions in ((1, length), (length,))):
            fitting.append(real.flatten())
        elif batch > 1 and batch != length and (turned or positions == (batch, length)):
            fitting.append((real.T if turned else real).flatten())
    if fitting and all(torch.equal(other, fitting[0]) for other in fitting[1:]):
        return fitting[0]
    return None
