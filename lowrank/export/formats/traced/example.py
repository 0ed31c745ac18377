"""Example inputs, on which a model is run while its operations are recorded."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# Of examples made of a config.
BATCH, LENGTH = 2, 8


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


def example_of(model: nn.Module, given: Any = None) -> Example:
    """The example that was given, or one made of the model's config.

    Args:
        given: a tensor, a tuple or list of tensors, a mapping of names to tensors; none for a model
            of `transformers`, whose config says what it takes.

    Raises:
        ValueError: something else is given, or nothing for another model.
    """
    if given is None:
        made = _of_config(model)
        if not made:
            raise ValueError(
                f"nothing says which inputs {type(model).__name__} takes: give example=…, a "
                "tensor, a tuple of tensors, or a dict of them by name, of one example or more"
            )
        return Example((), made)
    if isinstance(given, Mapping):
        example = Example((), dict(given))
    else:
        example = Example((given,) if isinstance(given, Tensor) else _sequence(given), {})
    strange = [value for value in example.tensors if not isinstance(value, Tensor)]
    if strange or not example.tensors or any(tensor.ndim < 1 for tensor in example.tensors):
        raise ValueError(
            "example must be tensors whose first axis is the batch: one, a tuple, or a dict by "
            f"name; not {strange[0] if strange else given!r}"
        )
    return example


def _sequence(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, tuple | list) else (given,)


def _open(tensor: Tensor) -> tuple[int, ...]:
    is_ids = tensor.ndim == 2 and not tensor.is_floating_point()
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
