"""Quality of a model on its task, and its agreement with the dense model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.model.forward import evaluating
from lowrank.model.nested import tensors, with_tensors
from lowrank.point.examples import ExampleValues
from lowrank.point.tally import Tally

if TYPE_CHECKING:
    from lowrank.tasks.task import Split, SplitName, Task

# Larger outputs are not kept: the logits of a language model on a test split would fill any memory.
KEPT_BYTES = 2**30
CHECKED_AT_ONCE = 2**24


@dataclass(frozen=True)
class Evaluation:
    """The quality of a model on one split.

    Attributes:
        metrics: by name, the task's metrics, "loss" (mean over the predictions) and, if there is a
            reference, the measures of `Task.agreement` as means over the predictions.
        outputs: the outputs of each batch, on the CPU; see `Task.predict`. A list of at most
            `KEPT_BYTES`, or else a `Rerun`, which computes them in each iteration.
        undefined: measures that `metrics` lacks because these data do not define them, or because
            their value is too large, each with the reason.
        examples: the outcomes of the single examples, whose means the metrics are.
    """

    metrics: dict[str, float]
    outputs: Iterable[Any] = field(repr=False)
    examples: ExampleValues = field(repr=False)
    undefined: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rerun:
    """The outputs of a model on a split by batch, computed again in each iteration."""

    model: nn.Module
    task: Task
    data: Split
    batch_size: int

    def __iter__(self) -> Iterator[Any]:
        for batch in self.data.batches(self.batch_size):
            # Entered and left in each step, since the caller has contexts of its own between two
            # steps.
            with evaluating(self.model), torch.inference_mode():
                outputs = self.task.predict(self.model, batch)
            yield outputs


def evaluate(
    model: nn.Module,
    task: Task,
    split: SplitName | Split = "test",
    batch_size: int | None = None,
    reference: Iterable[Any] | None = None,
) -> Evaluation:
    """Run a model over a whole split of a task, in evaluation mode.

    All predictions have equal weight, also in a shorter last batch.

    Args:
        split: train, calibration, validation or test, or other data of the task.
        batch_size: examples that run at once; the task's own (`Task.batch_sizes`) if not given.
        reference: the `outputs` of the dense model on the same split with the same `batch_size`; if
            given, agreement is measured too.

    Raises:
        ValueError: an output is NaN or infinite, the split is empty, or `reference` does not fit.
    """
    data, tally = task.split(split) if isinstance(split, str) else split, Tally(task)
    batch_size = task.batch_sizes.quality if batch_size is None else batch_size
    if len(data) == 0:
        raise ValueError(f"the split '{split}' of task '{task.name}' is empty: nothing to measure")
    kept: list[Any] = []
    size = 0
    dense_batches = repeat(None) if reference is None else iter(reference)
    with evaluating(model), torch.inference_mode():
        for batch in data.batches(batch_size):
            outputs = task.predict(model, batch)
            _check_finite(outputs, tally.examples)
            dense = next(dense_batches, END)
            tally.add(outputs, batch, None if dense is None else _fitting(outputs, dense))
            size += sum(tensor.nbytes for tensor in tensors(outputs))
            if size <= KEPT_BYTES:
                kept.append(with_tensors(outputs, _alone))
            else:
                kept.clear()
    if reference is not None and next(dense_batches, END) is not END:
        raise ValueError(f"the reference has more than these {tally.examples} examples: {SAME}")
    metrics, undefined = tally.results()
    outputs = kept if size <= KEPT_BYTES else Rerun(model, task, data, batch_size)
    return Evaluation(metrics, outputs, tally.outcomes(metrics), undefined)


def _alone(tensor: Tensor) -> Tensor:
    """A tensor on the CPU with its own memory: a view would hold the memory of the whole tensor."""
    tensor = tensor.cpu()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


# Marks the end of the outputs.
END = ()
SAME = "evaluate both models on the same split with the same batch_size"


def _fitting(outputs: Any, dense: Any) -> Any:
    """The outputs of the dense model on the same batch, moved to the device of `outputs`."""
    own = tensors(outputs)
    shapes, expected = ([tuple(t.shape) for t in each] for each in (own, tensors(dense)))
    if shapes != expected:
        raise ValueError(
            f"outputs of shape {shapes} do not match the reference's {expected or 'end'}: {SAME}"
        )
    devices = iter([tensor.device for tensor in own])
    return with_tensors(dense, lambda tensor: tensor.to(next(devices)))


def _check_finite(outputs: Any, examples: int) -> None:
    found = tensors(outputs)
    if not found:
        raise ValueError(
            f"`predict` of the task gives a {type(outputs).__name__} in which no tensor is seen: "
            "give tensors, alone or in tuples, lists and mappings"
        )
    for output in found:
        # In parts, since those of a language model are as large as all else together.
        parts = output.reshape(-1).split(CHECKED_AT_ONCE)
        wrong = sum(part.numel() - int(part.isfinite().sum()) for part in parts)
        if not wrong:
            continue
        raise ValueError(
            f"{wrong} of {output.numel()} outputs in the batch that starts at "
            f"example {examples} are NaN or infinite; such a model has no quality to report. "
            "Compress less, leave sensitive layers out with `where`, or, if it was trained, lower "
            "the learning rate."
        )
