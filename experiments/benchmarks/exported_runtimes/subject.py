"""The part of a task's model that is exported, and the task's model with a runtime in its place."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.exported_runtimes.runtimes import Network, Run
from lowrank.model.batch import Batch
from lowrank.tasks import Split, Task


@dataclass(frozen=True)
class ExportedPart:
    """The part of a model that goes into files: its outermost model of transformers, or all of it.

    Attributes:
        place: its name in the model; "" for all of it.
        names: of its inputs.
        output: the name of its first output; None if it gives a tensor.
    """

    place: str
    names: tuple[str, ...]
    output: str | None

    def of(self, model: nn.Module) -> nn.Module:
        """The part of a model."""
        return model.get_submodule(self.place)

    def network(self, task: Task) -> Network:
        """What makes it without weights; None where the files of its class describe it."""
        from transformers import PreTrainedModel

        part = self.of(task.network())
        if isinstance(part, PreTrainedModel):
            with torch.device("meta"):
                whole: nn.Module = type(part)(part.config)
            # A task may have removed what it does not use.
            if whole.state_dict().keys() == part.state_dict().keys():
                return None
        return lambda: self.of(task.network())

    def exchanged(self, model: nn.Module, run: Run) -> nn.Module:
        """A copy of the model with a runtime in the place of the part."""
        stand_in = Stand(run, self)
        if not self.place:
            return stand_in
        whole = copy.deepcopy(model)
        above, _, name = self.place.rpartition(".")
        setattr(whole.get_submodule(above), name, stand_in)
        return whole


class Stand(nn.Module):
    """A module that has a runtime compute its outputs."""

    def __init__(self, run: Run, part: ExportedPart) -> None:
        super().__init__()
        self._run, self._part = run, part

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        inputs = dict(zip(self._part.names, args, strict=False)) | kwargs
        result = torch.as_tensor(self._run(inputs))
        output = self._part.output
        return result if output is None else SimpleNamespace(**{output: result})


def part_of(model: nn.Module, task: Task, batch: Batch) -> tuple[ExportedPart, dict[str, Tensor]]:
    """The part of a model that is exported, and its inputs for a batch."""
    from transformers import PreTrainedModel

    place = next(
        (name for name, one in model.named_modules() if isinstance(one, PreTrainedModel)), ""
    )
    part = model.get_submodule(place)
    seen: list[tuple[dict[str, Any], Any]] = []

    def keep(_: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        bound = inspect.signature(part.forward).bind(*args, **kwargs)
        seen.append((dict(bound.arguments), outputs))

    with part.register_forward_hook(keep, with_kwargs=True), torch.no_grad():
        task.forward(model, batch)
    inputs, outputs = seen[0]
    # Where the signature gathers inputs by name, they are in this one entry.
    inputs = {**inputs, **inputs.pop("kwargs", {})}
    output = next(iter(outputs)) if isinstance(outputs, dict) else None
    return ExportedPart(place, tuple(inputs), output), inputs


class SomeExamples(Split):
    """Examples of a split, at even distances.

    Args:
        count: of them, or all if there are fewer.
    """

    def __init__(self, whole: Split, count: int) -> None:
        count = min(count, len(whole))
        self._whole = whole
        self._rows = torch.arange(count) * len(whole) // count

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, rows: Tensor) -> Batch:
        return self._whole.batch(self._rows[rows])


def distance(ours: Tensor, theirs: Tensor) -> float:
    """‖ours − theirs‖ / ‖theirs‖, Frobenius norms."""
    error = torch.linalg.vector_norm(ours.double() - theirs.double())
    return float(error / torch.linalg.vector_norm(theirs.double()))
