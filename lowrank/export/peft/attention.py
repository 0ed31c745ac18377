"""PyTorch's attention, of which PEFT adapts both projections by one adapter of one name."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import nn

# The projection of the outputs, and how PEFT names it inside of the attention that it has wrapped.
PROJECTION, WRAPPED = "out_proj", "base_layer.out_proj"
# PEFT adds that projection's change to the weight and merges it once more, at each call and for
# good (huggingface/peft#3774): trained and run, it counts twice. It is not known of later releases.
TIMES, KNOWN = 2, (0, 21)
NOTE = f"its adapter counts {TIMES} times, as in PEFT {'.'.join(map(str, KNOWN))}"


def owner_of(model: nn.Module, name: str) -> str:
    """The module by whose name PEFT knows the adapter of a layer.

    That is the attention around the projection of its outputs, and any other layer itself.
    """
    around, _, last = name.rpartition(".")
    if last != PROJECTION or not isinstance(model.get_submodule(around), nn.MultiheadAttention):
        return name
    return around


def path_of(name: str, owner: str) -> str:
    """Where in PEFT's model the adapter of a layer is."""
    return name if name == owner else f"{owner}.{WRAPPED}" if owner else WRAPPED


def times_of(name: str, owner: str) -> int:
    """How many times the adapter of a layer counts in PEFT."""
    return 1 if name == owner else TIMES


def check_inside(name: str, owner: str, adapted: Collection[str], version: object) -> None:
    """Raise ValueError for the adapter of an output projection that PEFT would not run as here.

    Args:
        adapted: the names of all adapted layers.
        version: of PEFT that the config says; None in folders of early releases.
    """
    if name == owner:
        return
    if owner not in adapted:
        raise ValueError(f"PEFT adapts it with '{owner}' around it, of which there is no adapter")
    found = re.match(r"(\d{1,4})\.(\d{1,4})", version) if isinstance(version, str) else None
    if version is not None and (found is None or tuple(map(int, found.groups())) > KNOWN):
        raise ValueError(
            f"the folder is of PEFT {version!r:.50}, and up to {'.'.join(map(str, KNOWN))} it is "
            "known that PEFT adds the change of an attention's output projection twice"
        )
