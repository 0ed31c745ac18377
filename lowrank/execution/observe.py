"""The work of the layers of a model, and of the leaves of a factorization, observed in one run."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.execution.kernel import Work
from lowrank.factorizations import Factorization
from lowrank.factorizations.factorization import MULTIPLY
from lowrank.factorizations.operations import Operation
from lowrank.measure.size import leaves
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.forward import Example, call, evaluating


def layer_work(model: nn.Module, example: Example) -> dict[str, Work]:
    """The work of each factorized layer that the example calls; the largest of several calls."""
    found: dict[str, Work] = {}
    calling: list[str] = []

    def record(work: Work) -> None:
        before = found.get(calling[-1])
        if before is None or work.x.numel() > before.x.numel():
            found[calling[-1]] = work

    layers = dict(factorized_layers(model))
    handles: list[Any] = []
    for name, layer in layers.items():
        handles += [
            layer.register_forward_pre_hook(functools.partial(_enter, calling, name)),
            layer.register_forward_hook(functools.partial(_leave, calling)),
        ]
    forms = {id(layer.factorization): layer.factorization for layer in layers.values()}
    with evaluating(model), torch.no_grad(), _watched(forms.values(), record):
        try:
            call(model, example)
        finally:
            for handle in handles:
                handle.remove()
    return found


def leaf_work(work: Work) -> dict[str, Work]:
    """The work of each leaf of a factorization, by its path, if it is called just once."""
    form = work.factorization
    paths = {id(module): path for path, module in form.named_modules()}
    calls: dict[str, list[Work]] = {}

    def record(part: Work) -> None:
        calls.setdefault(paths[id(part.factorization)], []).append(part)

    with torch.no_grad(), _watched(leaves(form), record):
        work.native(work.x)
    return {path: parts[0] for path, parts in calls.items() if len(parts) == 1}


def factorized_layers(model: nn.Module) -> Iterator[tuple[str, FactorizedLayer]]:
    """The layers of a model that run a factorization, by name."""
    for name, module in model.named_modules():
        if isinstance(module, FactorizedLayer):
            yield name, module


@contextmanager
def _watched(forms: Any, record: Any) -> Iterator[None]:
    """Inside, `record` is called with the work of each call of these factorizations."""

    def before(form: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        record(_read(form, *args, **kwargs))

    handles = [form.register_forward_pre_hook(before, with_kwargs=True) for form in forms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(calling: list[str], name: str, *_: Any) -> None:
    calling.append(name)


def _leave(calling: list[str], *_: Any) -> None:
    calling.pop()


def _read(
    form: Factorization, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
) -> Work:
    return Work(form, operation, bias, x)
