"""The share of weights that each head of attention keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from lowrank.inspection.weights import matrices

# The attributes in which modules of attention hold the width of a head, and the numbers of heads of
# queries and of keys and values, which their config may hold too.
WIDTHS = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim")
HEADS = ("num_heads", "num_attention_heads", "n_heads")
KEY_HEADS = ("num_kv_heads", "num_key_value_heads")
# Names of layers, after the part of a weight (out, in) that a head has: rows of one that makes
# queries, keys or values, columns of one that reads what the heads give.
MAKE = (
    *("q_proj", "k_proj", "v_proj", "query", "key", "value"),
    *("q", "k", "v", "q_lin", "k_lin", "v_lin"),
)
READ = ("o_proj", "out_proj", "c_proj", "dense", "o", "out_lin")
# Fused layers: all queries, then all keys, then all values; or those of one group of heads after
# those of another.
FUSED = ("c_attn", "qkv_proj", "Wqkv", "qkv", "in_proj_weight")
GROUPED = ("query_key_value",)
# Tables of distances that some modules of attention hold.
NO_PART = ("distance_embedding", "relative_attention_bias")


def kept_of_heads(dense: nn.Module, compressed: nn.Module) -> dict[str, Tensor]:
    """The share of weights that are not 0 in each head of attention, by the name of the layer.

    The layers are those inside of modules that say how wide a head is. A fused layer gives three
    entries, its name followed by "(queries)", "(keys)" and "(values)".

    Args:
        dense: by which layers are found, of the architecture of `compressed`.

    Returns:
        name → float64 (heads,); layers that share keys have fewer heads.

    Raises:
        ValueError: no module says how wide its heads are, or one has a layer of a name or a shape
            whose heads are not known.
    """
    found, weights = {}, matrices(dense, compressed)[1]
    for name, weight in weights.items():
        path, _, own = name.rpartition(".")
        module = dense.get_submodule(name)
        if _width(module) is None:
            module = dense.get_submodule(path)
        else:  # A packed projection is a parameter of its module.
            own = "in_proj_weight"
        width = _width(module)
        if width is None or own in NO_PART:
            continue
        for part, kept in _parts(name, own, (weight != 0).double().cpu(), module, width):
            found[f"{name}{part}"] = kept
    if not found:
        raise ValueError(
            "no layer that can be compressed lies in a module that says how wide its heads of "
            "attention are"
        )
    return found


def _parts(
    name: str, own: str, kept: Tensor, module: nn.Module, width: int
) -> Iterator[tuple[str, Tensor]]:
    """The shares of the heads in a layer, for each part of it with the end of its name."""
    if own not in (*MAKE, *READ, *FUSED, *GROUPED):
        raise ValueError(
            f"where the heads are in {name} is not known: the layers of attention whose heads are "
            f"have the names {', '.join((*MAKE, *READ, *FUSED, *GROUPED))}"
        )
    kept = kept.T if own in READ else kept
    if len(kept) % width:
        raise ValueError(
            f"{name} has {len(kept)} rows or columns of heads, which are not whole heads of "
            f"{width}: how it is made of heads is not known"
        )
    shares = kept.reshape(-1, width * kept.shape[1]).mean(dim=1)
    if own in (*MAKE, *READ):
        yield "", shares
        return
    heads = _number(module, HEADS)
    keys = _number(module, KEY_HEADS) or heads
    if heads is None or keys is None or len(shares) != heads + 2 * keys:
        raise ValueError(
            f"{name} has {len(shares)} heads of queries, keys and values together, and its module "
            f"says {heads} of queries and {keys} of keys: which is which is not known"
        )
    if own in GROUPED:
        groups = shares.reshape(keys, -1)
        split = groups[:, :-2].flatten(), groups[:, -2], groups[:, -1]
    else:
        split = shares.split([heads, keys, keys])
    yield from zip((" (queries)", " (keys)", " (values)"), split, strict=True)


def _width(module: nn.Module) -> int | None:
    found = next((getattr(module, name) for name in WIDTHS if hasattr(module, name)), None)
    return found if isinstance(found, int) and found >= 1 else None


def _number(module: nn.Module, names: Sequence[str]) -> int | None:
    """The first whole number that the module, or its config, has by one of these names."""
    holders: tuple[Any, ...] = (module, getattr(module, "config", None))
    found = (getattr(holder, name, None) for holder in holders for name in names)
    return next((one for one in found if isinstance(one, int)), None)
