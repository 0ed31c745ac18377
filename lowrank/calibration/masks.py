"""What masks of attention say about padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Masks in which 1 or True stands for what is real, and what the names of the tensors begin with
# that they are for; of torch's ``…key_padding_mask``, where True is padding, it is what comes
# before.
PREFIXES = {
    "attention_mask": "",
    "mask": "",
    "decoder_attention_mask": "decoder",
    "encoder_attention_mask": "encoder",
}
INVERTED = "key_padding_mask"


def is_mask(name: str) -> bool:
    """Whether an argument is named like a mask, of padding or of anything else."""
    return "mask" in name


def prefix_of(name: str) -> str | None:
    """What a mask of padding is for, by its name; None if it is not named like one."""
    if name.endswith(INVERTED):
        return name.removesuffix(INVERTED).rstrip("_")
    return PREFIXES.get(name)


def visible(name: str, mask: Tensor) -> Tensor | None:
    """Where a mask lets a position be seen: bool, of its shape; None if its values say nothing.

    Bool and 0 or 1; whole numbers of segments, 0 for padding; or what is added to the scores of an
    attention: 0, and negative where nothing is seen.
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
    """The keys (batch, keys) that some query sees, of a mask (batch, …, keys)."""
    return shown if shown.ndim == 2 else shown.flatten(1, -2).any(dim=1)


def is_causal(shown: Tensor) -> bool:
    """Whether a square mask lets each position see itself and those before it, or marks those
    that it does not see."""
    if shown.ndim != 2 or shown.shape[0] != shown.shape[1] or len(shown) < 2:
        return False
    lower = torch.ones_like(shown, dtype=torch.bool).tril()
    return torch.equal(shown, lower) or torch.equal(shown, ~lower)


def placed(positions: torch.Size, streams: Sequence[Tensor]) -> Tensor | None:
    """The real ones, bool (positions,), of a layer's positions; None if that cannot be told.

    Told it can be where just one stream of positions has the shape of these. Of a single example
    that is (1, length), (length,) or (length, 1); of several (batch, length), or the length first,
    unless the two are equal.

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
