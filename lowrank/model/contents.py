"""The stored content of a model: its tensors, each memory once, and its extra state."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lowrank.model.shared_memory import groups, identity, overlap, span

# The suffix of torch's name of the result of `get_extra_state`.
EXTRA = "_extra_state"


@dataclass(frozen=True)
class View:
    """A tensor that is a strided view of a stored, contiguous one."""

    base: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Contents:
    """The content of a `state_dict`, by its names.

    Attributes:
        tensors: the stored tensors, each memory once.
        same: further names of one tensor → the first.
        views: tensors that are parts of the memory of another.
        extra: the extra state of modules.
    """

    tensors: dict[str, Tensor]
    same: dict[str, str]
    views: dict[str, View]
    extra: dict[str, Any]

    def owner(self, name: str) -> str:
        """The name under which the memory of a tensor is stored."""
        name = self.same.get(name, name)
        return self.views[name].base if name in self.views else name

    @property
    def stored(self) -> list[Tensor]:
        """All tensors in the file, those of extra state included."""
        inner = [leaf for leaf in tree_leaves(self.extra) if isinstance(leaf, Tensor)]
        return [*self.tensors.values(), *inner]


def contents(model: nn.Module) -> Contents:
    """The stored content of a model.

    Raises:
        ValueError: two tensors share some memory, and neither is a part of the other.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tensors, extra = split_extra(model.state_dict())
    same: dict[str, str] = {}
    twins: dict[str, str] = {}  # Of equal memory, but other objects.
    first: dict[Hashable, str] = {}
    for name, tensor in tensors.items():
        original = first.setdefault(identity(tensor), name)
        if original != name:
            is_same = parameters.get(name) is parameters.get(original)
            (same if is_same else twins)[name] = original
    once = {name: tensor for name, tensor in tensors.items() if name not in same | twins}
    views = views_among(once)
    for name, original in twins.items():
        shape = tuple(tensors[name].shape)
        stride = torch.empty(shape, device="meta").stride()
        views[name] = views.get(original, View(original, shape, stride, 0))
    stored = {name: tensor for name, tensor in once.items() if name not in views}
    return Contents(stored, same, views, extra)


def split_extra(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state dict, and the extra state in it, which may be tensors too."""
    extra = {
        name: value
        for name, value in state.items()
        if name.rpartition(".")[2] == EXTRA or not isinstance(value, Tensor)
    }
    return {name: value for name, value in state.items() if name not in extra}, extra


def views_among(tensors: Mapping[str, Tensor]) -> dict[str, View]:
    """Those of tensors without twins that are parts of another one of them.

    Raises:
        ValueError: as `contents`.
    """
    views: dict[str, View] = {}
    for names in groups(tensors):
        # Tensors that others may be a part of come first.
        order = sorted(names, key=lambda n: (not tensors[n].is_contiguous(), -tensors[n].numel()))
        bases: list[str] = []
        for name in order:
            view = next(filter(None, (_view(tensors, name, base) for base in bases)), None)
            if view is not None:
                views[name] = view
                continue
            for base in bases:
                if overlap(tensors[name], tensors[base]):
                    raise ValueError(
                        f"'{base}' and '{name}' share some of their memory, and neither is a part "
                        "of the other, so that they cannot be stored once: give one of them memory "
                        "of its own (`.clone()`)"
                    )
            bases.append(name)
    return views


def _view(tensors: Mapping[str, Tensor], name: str, base: str) -> View | None:
    """A tensor as a view of another; None if it is no part of it, or that is not contiguous."""
    tensor, other = tensors[name], tensors[base]
    (start, stop), (first, last) = span(tensor), span(other)
    is_aligned = tensor.dtype == other.dtype and (start - first) % other.itemsize == 0
    if not (other.is_contiguous() and is_aligned and first <= start and stop <= last):
        return None
    offset = (start - first) // other.itemsize
    return View(base, tuple(tensor.shape), tensor.stride(), offset)


def spread(view: View, base: Tensor) -> Tensor:
    """The view, over the memory of its stored tensor.

    Raises:
        ValueError: it reaches beyond it.
    """
    reach = sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True))
    if 0 not in view.shape and view.offset + reach >= base.numel():
        raise ValueError(
            f"a view of shape {view.shape}, strides {view.stride} and offset {view.offset} reaches "
            f"beyond '{view.base}' of {base.numel()} numbers"
        )
    return base.view(-1).as_strided(view.shape, view.stride, view.offset)


def unlike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors of other shapes or dtypes in two models, or in one of them alone."""
    first, second = (
        {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in each.items()}
        for each in (one, other)
    )
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def names_of(places: Sequence[str]) -> str:
    """Names for an error: the first few."""
    shown = [name if len(name) <= 100 else f"{name[:99]}…" for name in places[:5]]
    return f"{shown}" + (f" and {len(places) - 5} more" if len(places) > 5 else "")
