"""Models in which each weight is the parameter of a module of its own.

Recurrent layers, attention with separate projections, fused experts, parametrized layers and layers
whose adapters were merged hold their weights in other ways. A model is opened before it is
compressed: in a copy on the same tensors, such modules are exchanged for ones of the same outputs.
A new kind is a new opener in `OPENERS`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from lowrank.model.copying import copied
from lowrank.model.opened.attention_parts import AttentionOpener
from lowrank.model.opened.batched import BatchedOpener
from lowrank.model.opened.cells import CellOpener
from lowrank.model.opened.experts import ExpertsOpener
from lowrank.model.opened.merged import MergedOpener
from lowrank.model.opened.opener import Opener
from lowrank.model.opened.parallel import ParallelOpener
from lowrank.model.opened.parametrized import ParametrizationOpener
from lowrank.model.opened.recurrent import RecurrentOpener
from lowrank.model.sites import Places

OPENERS: tuple[Opener, ...] = (
    RecurrentOpener(),
    CellOpener(),
    AttentionOpener(),
    ExpertsOpener(),
    ParallelOpener(),
    BatchedOpener(),
    ParametrizationOpener(),
    MergedOpener(),
)


@dataclass(frozen=True)
class Opened:
    """An opened model.

    Attributes:
        model: the copy, or the model itself if nothing had to be opened.
        notes: for the reports, by the name of the weight.
    """

    model: nn.Module
    notes: dict[str, tuple[str, ...]]


def open_weights(model: nn.Module, names: Collection[str] | None = None) -> Opened:
    """A model with its modules opened.

    Args:
        names: only modules in which there is one of these weights then; all if not given.
    """
    found: dict[str, Opener] = {}
    notes: dict[str, tuple[str, ...]] = {}
    for path, module in model.named_modules():
        for opener in OPENERS:
            inside = [".".join(filter(None, (path, own))) for own in opener.weights(module)]
            if inside and (names is None or set(inside) & set(names)):
                found[path] = opener
                notes |= dict.fromkeys(inside, opener.note(module))
    if not found:
        return Opened(model, {})
    copies = copied(model, [*model.parameters(), *model.buffers()])
    places = Places(copies.model)
    for path in sorted(found, key=lambda path: path.count("."), reverse=True):
        old = places.model.get_submodule(path)
        places.replace(old, found[path].open(old))
    return Opened(places.model, notes)
