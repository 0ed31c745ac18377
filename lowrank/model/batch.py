"""Batches: the inputs of examples that a model runs together, their targets and real positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.forward import Example, called, described_value
from lowrank.model.nested import examples_of, fresh, joined, shapes, tensors, with_tensors


@dataclass(frozen=True)
class Batch:
    """Examples along the first axis of every tensor; a list has one entry for each of them.

    Attributes:
        inputs: of the model, a tuple by position or a mapping by name.
        targets: the right outputs: tensors and lists, such as of texts, alone or in tuples and
            mappings; None where there are none.
        real: by the place of an input in `inputs`, bool (batch, length): True where a position of
            it is real, and not padding. An input that is not there has none that is padding.

    Raises:
        ValueError: inputs that are no tuple and no mapping, or `real` of an input that is not
            there, or that is not bool (batch, length).
    """

    inputs: Example
    targets: Any = None
    real: Mapping[int | str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, tuple | Mapping):
            raise ValueError(
                f"inputs of a batch must be a tuple or a mapping by name, and are a "
                f"{type(self.inputs).__name__}; of a model that takes one tensor write (tensor,)"
            )
        for place, real in self.real.items():
            self._check_real(place, real)

    def __len__(self) -> int:
        """The number of examples: the length of the first tensor's first axis."""
        return next((len(tensor) for tensor in tensors(self.inputs) if tensor.ndim), 1)

    @property
    def only(self) -> Any:
        """The only input, of a model that takes one."""
        (value,) = self.inputs.values() if isinstance(self.inputs, Mapping) else self.inputs
        return value

    @property
    def is_padded(self) -> bool:
        """Whether any position is padding."""
        return not all(bool(real.all()) for real in self.real.values())

    @property
    def is_empty(self) -> bool:
        """Whether all positions of an input are padding."""
        return any(not bool(real.any()) for real in self.real.values())

    def run(self, model: nn.Module) -> Any:
        """What a model gives for the inputs, into which it may write."""
        return called(model, self.inputs)

    def fresh(self) -> Batch:
        """The batch with copies of its inputs, into which a model may write."""
        return replace(self, inputs=fresh(self.inputs))

    def first(self, count: int) -> Batch:
        """The first `count` examples."""
        return self.part(slice(count))

    def part(self, rows: slice) -> Batch:
        """Some of the examples."""
        return self._with(lambda part: examples_of(part, rows))

    def trainable(self) -> Batch:
        """The batch with copies of tensors made in inference mode, which autograd refuses."""
        whole = tensors([self.inputs, self.targets])
        if not any(tensor.is_inference() for tensor in whole):
            return self
        copied = lambda tensor: tensor.clone() if tensor.is_inference() else tensor  # noqa: E731
        return self._with(lambda part: with_tensors(part, copied))

    def shapes(self) -> tuple[Any, ...]:
        """The shapes of all tensors: batches of one structure and equal shapes go together."""
        return shapes((self.inputs, self.targets, dict(self.real)))

    def whole(self) -> Batch:
        """The batch with an entry in `real` for every input, if any input has padding.

        All positions of an input without an entry are real.
        """
        if not self.is_padded:
            return replace(self, real={})
        like = next(iter(self.real.values()))
        named = self.inputs if isinstance(self.inputs, Mapping) else dict(enumerate(self.inputs))
        others = {
            place: like.new_ones(value.shape[:2])
            for place, value in named.items()
            if isinstance(value, Tensor) and value.ndim > 1
        }
        return replace(self, real=others | dict(self.real))

    def _with(self, change: Callable[[Any], Any]) -> Batch:
        return Batch(*map(change, (self.inputs, self.targets, dict(self.real))))

    def _check_real(self, place: int | str, real: Tensor) -> None:
        places = self.inputs if isinstance(self.inputs, Mapping) else range(len(self.inputs))
        if place not in places:
            raise ValueError(
                f"`real` of a batch names the input {place!r}, and its inputs are "
                f"{', '.join(map(repr, places)) or 'none'}"
            )
        if not isinstance(real, Tensor) or real.dtype != torch.bool or real.ndim != 2:
            raise ValueError(
                f"`real` of a batch must be bool of shape (batch, length), and of input {place!r} "
                f"it is {described_value(real)}"
            )


def together(batches: Sequence[Batch]) -> Batch:
    """One batch of the examples of several batches with equal structure and shapes."""
    parts = [(batch.inputs, batch.targets, dict(batch.real)) for batch in batches]
    return Batch(*map(joined, zip(*parts, strict=True)))
