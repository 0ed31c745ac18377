"""How well a model does its task, and how far it agrees with the dense model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.measure.forward import evaluating

if TYPE_CHECKING:
    from lowrank.tasks.task import SplitName, Task


@dataclass(frozen=True)
class Evaluation:
    """The quality of a model on one split.

    Attributes:
        metrics: the task's own (0 to 1), "loss" (mean over the examples), and with a reference
            "flipped" (share of predictions that differ) and "kl" (nats; see `evaluate`).
        outputs: the model's outputs, one tensor per batch, on the CPU.
    """

    metrics: dict[str, float]
    outputs: list[Tensor] = field(repr=False)


def evaluate(
    model: nn.Module,
    task: Task,
    split: SplitName = "test",
    batch_size: int = 256,
    reference: Sequence[Tensor] | None = None,
) -> Evaluation:
    """Run a model over a whole split of a task, in evaluation mode.

    Every example counts the same, those of a short last batch too.

    Args:
        split: train, calibration, validation or test.
        reference: the outputs of the dense model on the same split with the same `batch_size`. If
            given, agreement is measured too: outputs are scores of classes along axis 1, a
            prediction is their argmax, and "kl" is the mean of KL(dense ‖ compressed) in nats.

    Raises:
        ValueError: an output is NaN or infinite, the split is empty, or `reference` does not fit.
    """
    data, metrics = task.split(split), task.metrics()
    if len(data) == 0:
        raise ValueError(f"the split '{split}' of task '{task.name}' is empty: nothing to measure")
    outputs: list[Tensor] = []
    loss, examples = 0.0, 0
    with evaluating(model), torch.inference_mode():
        for inputs, targets in data.batches(batch_size):
            output = task.forward(model, inputs)
            _check_finite(output, examples)
            loss += float(task.loss(output, targets)) * len(output)
            examples += len(output)
            outputs.append(output.cpu())
            metrics.update(outputs[-1], targets.cpu())
    values = {name: float(value) for name, value in metrics.compute().items()}
    values["loss"] = loss / examples
    if reference is not None:
        values |= agreement(outputs, reference)
    return Evaluation(values, outputs)


def agreement(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> dict[str, float]:
    """ "flipped" and "kl" of outputs against those of the dense model; see `evaluate`.

    Raises:
        ValueError: the two were not made from the same batches.
    """
    shapes, expected = [tuple(o.shape) for o in outputs], [tuple(r.shape) for r in reference]
    if shapes != expected:
        raise ValueError(
            f"outputs in {len(shapes)} batches, the first of shape {shapes[:1]}, do not match the "
            f"reference's {len(expected)}, {expected[:1]}: evaluate both models on the same split "
            "with the same batch_size"
        )
    flipped, divergence, predictions = 0, 0.0, 0
    for ours, theirs in zip(outputs, reference, strict=True):
        changed = ours.argmax(dim=1) != theirs.argmax(dim=1)
        flipped += int(changed.sum())
        predictions += changed.numel()
        # float32 loses the small divergences of a nearly lossless compression.
        log_q, log_p = F.log_softmax(ours.double(), dim=1), F.log_softmax(theirs.double(), dim=1)
        divergence += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
    return {"flipped": flipped / predictions, "kl": divergence / predictions}


def _check_finite(output: Tensor, examples: int) -> None:
    finite = torch.isfinite(output)
    if not bool(finite.all()):
        raise ValueError(
            f"{int((~finite).sum())} of {output.numel()} outputs in the batch that starts at "
            f"example {examples} are NaN or infinite; such a model has no quality to report. "
            "Compress less, or leave sensitive layers out with `where`."
        )
