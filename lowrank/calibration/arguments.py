"""The inputs of a batch as named arguments of a model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lowrank.calibration.piece import Refused
from lowrank.model.batch import Batch


def named(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """The inputs of a batch by the names of the arguments of `model.forward`, in the batch's order.

    The keys of a mapping are the names. The items of a tuple get the names of the signature; an
    item for which the signature has no name is named by its place, such as ``[2]``.
    """
    if isinstance(batch.inputs, Mapping):
        return dict(batch.inputs)
    values = batch.inputs
    signature = signature_of(model)
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    known = [] if signature is None else list(signature.parameters.values())
    names = [parameter.name for parameter in known if parameter.kind in positional]
    names += [f"[{index}]" for index in range(len(names), len(values))]
    return dict(zip(names, values, strict=False))


def given_as(batch: Batch, arguments: Mapping[str, Any], real: Mapping[str, Tensor]) -> Batch:
    """A batch of the arguments from `named`, in the container (tuple or mapping) of `batch`, with
    the positions `real` that are no padding.
    """
    if isinstance(batch.inputs, Mapping):
        return Batch(arguments, real={**real})
    places = {name: place for place, name in enumerate(arguments)}
    return Batch(tuple(arguments.values()), real={places[name]: t for name, t in real.items()})


def signature_of(model: nn.Module) -> inspect.Signature | None:
    """The signature of a model's forward; None where it has none, such as some compiled code."""
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None


def check_arguments(model: nn.Module, batch: Batch) -> None:
    """Raise ValueError if a model cannot be called with the arguments of a batch."""
    signature = signature_of(model)
    if signature is None:
        return
    given, places = (batch.inputs, ()) if isinstance(batch.inputs, Mapping) else ({}, batch.inputs)
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
    """Whether a module takes arguments of a decoder beside an encoder's (``decoder_…``)."""
    forwards = {type(module): module for module in model.modules()}.values()
    signatures = filter(None, map(signature_of, forwards))
    return any(name.startswith("decoder_") for own in signatures for name in own.parameters)


def runs_length_first(model: nn.Module) -> bool:
    """Whether an `nn.MultiheadAttention` in the model takes (length, batch, width)."""
    attentions = (m for m in model.modules() if isinstance(m, nn.MultiheadAttention))
    return any(not attention.batch_first for attention in attentions)
