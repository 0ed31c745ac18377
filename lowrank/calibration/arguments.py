"""A batch as named arguments of a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from lowrank.calibration.piece import Refused


def named(model: nn.Module, batch: Any) -> dict[str, Any]:
    """The arguments of `model.forward` that a batch gives, by name; in the batch's order.

    A mapping has names; what a tuple, a list or a single tensor gives has those of the signature,
    or its place, where the signature has no name for it.
    """
    if isinstance(batch, Mapping):
        return dict(batch)
    values = list(batch) if isinstance(batch, list | tuple) else [batch]
    signature = signature_of(model)
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    known = [] if signature is None else list(signature.parameters.values())
    names = [parameter.name for parameter in known if parameter.kind in positional]
    names += [f"[{index}]" for index in range(len(names), len(values))]
    return dict(zip(names, values, strict=False))


def given_as(batch: Any, arguments: Mapping[str, Any]) -> Any:
    """Arguments from `named` in the form of the batch that they are of."""
    if isinstance(batch, Mapping):
        return dict(arguments)
    values = list(arguments.values())
    return tuple(values) if isinstance(batch, list | tuple) else values[0]


def signature_of(model: nn.Module) -> inspect.Signature | None:
    """The signature of a model's forward; None where it has none, as compiled code may."""
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def check_arguments(model: nn.Module, batch: Any) -> None:
    """Raise ValueError if a model cannot be called with the arguments of a batch."""
    signature = signature_of(model)
    if signature is None:
        return
    given: Mapping[str, Any] = batch if isinstance(batch, Mapping) else {}
    places = () if isinstance(batch, Mapping) else batch
    try:
        signature.bind(*places, **given)
    except TypeError as error:
        if given:
            raise Refused(
                f"a calibration batch gives the arguments {list(given)}, which the model does not "
                f"take ({error}); it takes {list(signature.parameters)}: leave out what is no input"
            ) from None
        raise Refused(
            f"a calibration batch is a tuple of {len(places)}, the positional arguments of the "
            f"model, which does not take them ({error}): leave out what is no input, such as "
            "labels, or give a model that takes one list the tuple ([...],)"
        ) from None


def has_decoder(model: nn.Module) -> bool:
    """Whether some module of the model takes ``decoder_…`` arguments, beside an encoder's."""
    forwards = {type(module): module for module in model.modules()}.values()
    signatures = filter(None, map(signature_of, forwards))
    return any(name.startswith("decoder_") for own in signatures for name in own.parameters)


def runs_length_first(model: nn.Module) -> bool:
    """Whether some attention of torch in the model takes (length, batch, width)."""
    attentions = (m for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    return any(not attention.batch_first for attention in attentions)
