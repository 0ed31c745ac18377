"""Example inputs, on which a model is run while its operations are recorded."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.export.formats.traced.inputs_file import inputs_in

# What an example is given as.
Given = Tensor | Sequence[Tensor] | Mapping[str, Tensor] | str | Path | None
# Of examples made of a config.
BATCH, LENGTH = 2, 8
# The names of inputs by position.
BY_PLACE = re.compile(r"input_(0|[1-9]\d*)")


def example_field() -> Any:
    """The option of a format that records a run; its help is that of the command line."""
    about = (
        "a safetensors file of inputs, by the names that forward() takes, or input_0, input_1, … "
        "for those by position; the first axis is the batch"
    )
    return field(default=None, metadata={"help": about})


@dataclass(frozen=True)
class Example:
    """Inputs of a model, and which of their sizes stay open.

    Attributes:
        args, kwargs: tensors, by position and by name.
    """

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]

    @property
    def names(self) -> list[str]:
        """Of all inputs; those by position are called ``input_0``, ``input_1``, …"""
        return [*(f"input_{place}" for place in range(len(self.args))), *self.kwargs]

    @property
    def tensors(self) -> list[Tensor]:
        """All inputs."""
        return [*self.args, *self.kwargs.values()]

    @property
    def open(self) -> dict[str, tuple[int, ...]]:
        """Of each input the axes of any size: the first, and the second of integers, as a length of
        token ids is."""
        return dict(zip(self.names, map(_open, self.tensors), strict=True))

    def changed(self) -> Example:
        """The example with at least two entries along each open axis.

        An axis of one entry would be recorded as one that always has one.
        """
        args = tuple(map(_repeated, self.args))
        return Example(args, {name: _repeated(tensor) for name, tensor in self.kwargs.items()})


def example_of(model: nn.Module, given: Given = None) -> Example:
    """The example that was given, or one made of the model's config.

    Args:
        given: a tensor, a tuple or list of tensors, a mapping of names to tensors, or a safetensors
            file of such a mapping; none for a model of `transformers`, whose config says what it
            takes. Those called ``input_0``, ``input_1``, … go by position, unless the model takes
            them by these names.

    Raises:
        ValueError: something else is given, names or a number of inputs that the model does not
            take, or nothing for another model.
        OSError: the file cannot be read.
    """
    if given is None:
        made = _of_config(model)
        if not made:
            raise ValueError(
                f"nothing says which inputs {type(model).__name__} takes: give example=…, a "
                "tensor, a tuple of tensors, a dict of them by name, or a safetensors file of "
                "such a dict (on the command line --example FILE), of one example or more"
            )
        return Example((), made)
    takes = inspect.signature(model.forward)
    named = inputs_in(given) if isinstance(given, str | Path) else given
    if isinstance(named, Mapping):
        example = _by_names(named, takes)
    else:
        example = Example((named,) if isinstance(named, Tensor) else _sequence(named), {})
    _check_tensors(example, given)
    try:
        takes.bind(*example.args, **example.kwargs)
    except TypeError as error:
        raise ValueError(
            f"the example does not fit {type(model).__name__}, whose forward() takes "
            f"{list(takes.parameters)}: {error}; given are {example.names}"
        ) from error
    return example


def _by_names(given: Mapping[str, Any], takes: inspect.Signature) -> Example:
    by_place, kwargs = dict[int, Any](), dict[str, Any]()
    for name, value in given.items():
        place = BY_PLACE.fullmatch(name) if isinstance(name, str) else None
        if place is None or name in takes.parameters:
            kwargs[name] = value
        else:
            by_place[int(place[1])] = value
    if sorted(by_place) != list(range(len(by_place))):
        raise ValueError(
            f"the example has inputs by position {[f'input_{n}' for n in sorted(by_place)]}: "
            "number them from input_0 without a gap"
        )
    return Example(tuple(by_place[place] for place in sorted(by_place)), kwargs)


def _check_tensors(example: Example, given: Any) -> None:
    strange = [value for value in example.tensors if not isinstance(value, Tensor)]
    empty = [
        f"{name} of shape {tuple(tensor.shape)}"
        for name, tensor in zip(example.names, example.tensors, strict=True)
        if isinstance(tensor, Tensor) and (not tensor.ndim or not tensor.numel())
    ]
    if strange or empty or not example.tensors:
        what = repr(strange[0]) if strange else " and ".join(empty) or repr(given)
        raise ValueError(
            "example must be tensors whose first axis is the batch, of one example or more: one, a "
            f"tuple, or a dict by name, or a safetensors file; not {what}"
        )


def _sequence(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,)


def _open(tensor: Tensor) -> tuple[int, ...]:
    is_number = tensor.is_floating_point() or tensor.is_complex()
    is_ids = tensor.ndim == 2 and not is_number
    return (0, 1) if is_ids else (0,)


def _repeated(tensor: Tensor) -> Tensor:
    repeats = [2 if axis in _open(tensor) and n == 1 else 1 for axis, n in enumerate(tensor.shape)]
    # Contiguous, since programs take only inputs that lie in memory as the example does.
    return tensor.repeat(repeats).contiguous()


def _of_config(model: nn.Module) -> dict[str, Tensor]:
    """Inputs by what the model calls its main one; none if that is not known here."""
    config, main = getattr(model, "config", None), getattr(model, "main_input_name", None)
    if config is None or main not in INPUTS:
        return {}
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    inputs = {main: INPUTS[main](config)}
    takes = inspect.signature(model.forward).parameters
    if main == "input_ids" and "attention_mask" in takes:
        inputs["attention_mask"] = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        inputs["decoder_input_ids"] = _ids(config)[:, : LENGTH // 2]
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _ids(config: Any) -> Tensor:
    """Token ids that are no padding in any common vocabulary."""
    return (torch.arange(BATCH * LENGTH) % max(config.vocab_size - 3, 1) + 2).view(BATCH, LENGTH)


def _pixels(config: Any) -> Tensor:
    size = config.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return torch.zeros(BATCH, config.num_channels, height, width)


def _spectra(config: Any) -> Tensor:
    return torch.zeros(BATCH, config.num_mel_bins, 2 * config.max_source_positions)


# By the main input of a model, which models of `transformers` name.
INPUTS = {"input_ids": _ids, "pixel_values": _pixels, "input_features": _spectra}
