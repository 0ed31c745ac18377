"""The record of one run of a model: a program of PyTorch's own operations."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lowrank.export.formats.traced.example import Example
from lowrank.factorizations import Factorization
from lowrank.model.copying import copied
from lowrank.model.factorized import FactorizedLayer

# How torch.export begins to say that a size which is to stay open has to be that of the example.
VIOLATED = "Constraints violated"
OF_ONE_SIZE = (
    "The first axis of all inputs stays open, and the second of integers with two axes, as a "
    "length of token ids does. This model takes one size along such an axis alone: integers of a "
    "fixed number can be given as floating point, which its code makes integers of"
)
OF_OTHERS = (
    "Give an example of the inputs that it takes; let code that depends on the numbers in tensors "
    "be replaced or left out of the model"
)


class Traced(nn.Module):
    """A model whose outputs are tensors alone: one, a tuple of them, or a dict by name.

    What else a model returns, such as a cache of keys and values, is left out, and not made where
    the model can be told so.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        super().__init__()
        self.model = model
        takes = inspect.signature(model.forward).parameters
        options = {"use_cache": False} if "use_cache" in takes else {}
        by_place = len(example.args)

        def forward(*args: Tensor, **kwargs: Tensor) -> Any:
            given = (*args, *kwargs.values())
            named = dict(zip(example.kwargs, given[by_place:], strict=True))
            found = _tensors(self.model(*given[:by_place], **named, **options))
            if found is None:
                raise ValueError("it returns no tensors")
            return found

        # `torch.export` names inputs by it, and matches sizes that stay open to them.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        names = [inspect.Parameter(name, kind) for name in example.names]
        forward.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
        self.forward = forward


def _tensors(outputs: Any) -> Any:
    """The tensors of outputs; None if there are none."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        named = {name: _tensors(value) for name, value in outputs.items()}
        return {name: value for name, value in named.items() if value is not None} or None
    if isinstance(outputs, tuple | list):
        found = tuple(value for value in map(_tensors, outputs) if value is not None)
        return (found[0] if len(found) == 1 else found) if found else None
    return None


def with_forms(
    model: nn.Module, exchange: Callable[[Factorization, list[FactorizedLayer]], nn.Module]
) -> nn.Module:
    """A copy of a model, in evaluation mode and on the same tensors, with other factorizations.

    Args:
        exchange: gives what layers have in the place of a copy of the factorization that they use.
    """
    new = copied(model, [*model.parameters(), *model.buffers()]).model.eval()
    users: dict[Factorization, list[FactorizedLayer]] = {}
    for layer in new.modules():
        if isinstance(layer, FactorizedLayer):
            # Of an optimised model, the kernel, which holds a packed copy of the weight.
            layer.__dict__.pop("run", None)
            users.setdefault(layer.factorization, []).append(layer)
    for form, layers in users.items():
        instead = exchange(form, layers)
        for layer in layers:
            layer._modules["factorization"] = instead
    return new


def recorded(model: nn.Module, example: Example) -> ExportedProgram:
    """The program of a model, for any size of the batch and any length of token ids.

    Raises:
        ValueError: it cannot be recorded; the text names the layer in which that failed.
    """
    wide = example.changed()
    traced = Traced(model, wide)
    sizes = {name: dict.fromkeys(axes, Dim.DYNAMIC) for name, axes in wide.open.items()}
    with _named_errors(traced), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the compilers, about themselves.
        return torch.export.export(
            traced,
            wide.args,
            wide.kwargs,
            dynamic_shapes=sizes,
            strict=False,
        )


@contextmanager
def _named_errors(traced: Traced) -> Iterator[None]:
    """Say in which layer a run failed."""
    inside: list[str] = []

    def enter(name: str, *_: Any) -> None:
        inside.append(name)

    def leave(*_: Any) -> None:
        inside.pop()

    hooks = []
    for name, module in traced.model.named_modules():
        if "factorization" not in name.split("."):
            hooks.append(module.register_forward_pre_hook(functools.partial(enter, name)))
            hooks.append(module.register_forward_hook(leave))
    try:
        yield
    except Exception as error:  # Whatever the code of a model and the compilers raise.
        where = f"in the layer {inside[-1]!r} of" if inside and inside[-1] else "in"
        reason = str(error).strip().split("\n\n")[0][:600]
        advice = OF_ONE_SIZE if VIOLATED in reason else OF_OTHERS
        raise ValueError(
            f"the operations of {type(traced.model).__name__} cannot be recorded; torch.export "
            f"failed {where} the model: {reason}\n{advice}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
