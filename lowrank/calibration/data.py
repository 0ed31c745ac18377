"""What a model is shown so that its layers' inputs can be known."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lowrank.memo import fingerprint

if TYPE_CHECKING:
    from lowrank.tasks.task import Task

# The names under which models of `transformers` take their masks of padding.
MASKS = ("attention_mask", "decoder_attention_mask")


class CalibrationData(ABC):
    """Batches of examples, the same at each pass, and how a model takes them."""

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """All batches, once."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Run the model on a batch."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss over the batch, differentiable.

        Raises:
            ValueError: the data say nothing about what is right.
        """

    @abstractmethod
    def masks(self, batch: Any) -> list[Tensor]:
        """Masks, bool (batch, length), True where a position is real and not padding."""

    @abstractmethod
    def observe(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        """What `distance` compares of a model on a batch."""

    @abstractmethod
    def distance(
        self, observed: tuple[Tensor, ...], dense: tuple[Tensor, ...], batch: Any
    ) -> Tensor:
        """How far a model is from the dense one on a batch, differentiable; 0 where they agree."""

    @abstractmethod
    def weight(self, batch: Any) -> int:
        """How much the batch counts in a mean of distances."""

    @property
    def kind(self) -> str:
        """What decides, besides the batches, what a model makes of them."""
        return type(self).__qualname__

    def fingerprint(self) -> str:
        """A hash of all numbers in all batches, of their places in them, and of `kind`."""
        digest = xxhash.xxh3_128(self.kind.encode())
        for batch in self.batches():
            for value in (batch, self.masks(batch)):
                digest.update(f"{spelled(value)}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class TaskData(CalibrationData):
    """The calibration split of a task.

    Args:
        batch_size: examples that run at once.
    """

    task: Task
    batch_size: int

    @property
    def kind(self) -> str:
        return f"{super().kind} of {type(self.task).__qualname__}"

    def batches(self) -> Iterator[Any]:
        return self.task.split("calibration").batches(self.batch_size)

    def forward(self, model: nn.Module, batch: Any) -> Any:
        return self.task.forward(model, batch[0])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return self.task.loss(self.task.forward(model, inputs), targets)

    def observe(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        return self.task.observe(model, batch[0])

    def distance(
        self, observed: tuple[Tensor, ...], dense: tuple[Tensor, ...], batch: Any
    ) -> Tensor:
        return self.task.distance(observed, dense, batch[1])

    def weight(self, batch: Any) -> int:
        return self.task.predictions(batch[1])

    def masks(self, batch: Any) -> list[Tensor]:
        mask = self.task.mask(batch[0])
        return [] if mask is None else [mask]


@dataclass(frozen=True)
class Batches(CalibrationData):
    """Batches at hand: each a tensor, a tuple of positional or a mapping of named arguments.

    Of a mapping, ``attention_mask`` and ``decoder_attention_mask`` say which positions are padding,
    and where the model returns a loss (``labels`` given) it can be used.

    Raises:
        ValueError: there is no batch; from `forward`, a tuple that the model does not take.
    """

    given: Sequence[Any]

    def __post_init__(self) -> None:
        if not isinstance(self.given, Sequence) or not self.given:
            raise ValueError(
                f"calibration data must be a non-empty list of batches (tensors, tuples or dicts), "
                f"got {type(self.given).__name__}"
            )

    def batches(self) -> Iterator[Any]:
        return iter(self.given)

    def forward(self, model: nn.Module, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            return model(**batch)
        if not isinstance(batch, tuple):
            return model(batch)
        try:
            return model(*batch)
        except TypeError:
            check_arguments(model, batch)
            raise  # They fit; it has another cause.

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss = getattr(self.forward(model, batch), "loss", None)
        if loss is None:
            raise ValueError(
                "the model returns no loss for these calibration data: give batches as mappings "
                "with `labels`, or a task"
            )
        return loss

    def observe(self, model: nn.Module, batch: Any) -> tuple[Tensor, ...]:
        """The first floating-point tensor that the model returns, a scalar such as a loss left out.

        Raises:
            ValueError: it returns none.
        """
        returned = self.forward(model, batch)
        # The outputs of `transformers` are mappings, but not to all its versions' pytrees.
        parts = list(returned.values()) if isinstance(returned, Mapping) else tree_leaves(returned)
        for part in parts:
            if isinstance(part, Tensor) and part.is_floating_point() and part.ndim:
                return (part,)
        raise ValueError(
            f"the model returns a {type(returned).__name__} without floating-point tensors, so "
            "compressed and dense outputs cannot be compared"
        )

    def distance(
        self, observed: tuple[Tensor, ...], dense: tuple[Tensor, ...], batch: Any
    ) -> Tensor:
        """‖y − ŷ‖² / ‖y‖², over the positions that are real."""
        (ours,), (theirs,) = observed, dense
        for mask in self.masks(batch):
            if mask.shape == ours.shape[:2]:
                ours, theirs = ours[mask], theirs[mask]
        return (ours - theirs).square().sum() / theirs.square().sum()

    def weight(self, batch: Any) -> int:
        return 1

    def masks(self, batch: Any) -> list[Tensor]:
        if not isinstance(batch, Mapping):
            return []
        given = [batch[name] for name in MASKS if isinstance(batch.get(name), Tensor)]
        return [mask.to(torch.bool) for mask in given if mask.ndim == 2]


def check_arguments(model: nn.Module, batch: tuple[Any, ...]) -> None:
    """Raise ValueError if a model cannot be called with these positional arguments."""
    try:
        inspect.signature(model.forward).bind(*batch)
    except TypeError as error:
        raise ValueError(
            f"a calibration batch is a tuple of {len(batch)}, the positional arguments of the "
            f"model, which does not take them ({error}): leave out what is no input, such as labels"
        ) from None


def spelled(value: Any) -> str:
    """A batch as text, tensors as hashes of their content.

    Raises:
        ValueError: something in it whose content has no such text.
    """
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {spelled(part)}' for key, part in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(spelled, value))})"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise ValueError(
        f"calibration data hold a {type(value).__name__}, by which they cannot be told from "
        "others: give tensors, numbers and texts, alone or in tuples, lists and mappings"
    )


def as_data(data: Any, batch_size: int) -> CalibrationData:
    """Calibration data from a task, a list of batches, or as they are.

    Args:
        batch_size: for a task; batches at hand stay as they are.
    """
    if isinstance(data, CalibrationData):
        return data
    # The tasks bring the libraries of their data; whoever has one has loaded them.
    from lowrank.tasks.task import Task

    return TaskData(data, batch_size) if isinstance(data, Task) else Batches(data)
