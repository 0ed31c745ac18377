"""Agreement between the outputs of a compressed model and those of the dense one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.model.nested import tensors
from lowrank.tasks.score_parts import in_parts

# Values converted to float64 at a time: a few MB, which stay in the processor's cache.
CHUNK = 2**18


# The metric that `output_error` measures.
OUTPUT_ERROR = Metric(
    "output_error",
    "mean squared error to the dense model's outputs\n(test split)",
    "output error",
    higher_is_better=False,
    dense=0.0,
    average="mean",
)


def output_error(outputs: Any, dense: Any, batch: Batch) -> Tensor:
    """The mean of |y − ŷ|² over all real or complex outputs of each example, float64 (batch,).

    Not relative: the outputs of single examples may be near 0. Padding does not count in outputs
    that have the positions of an input. Differentiable in `outputs`.

    Args:
        outputs, dense: of the compressed and of the dense model: tensors, alone or in containers,
            each with the batch as its first axis.

    Raises:
        ValueError: none of the outputs is a tensor of such numbers.
    """
    total, count = [], []
    for ours, theirs in zip(tensors(outputs), tensors(dense), strict=True):
        if not (theirs.is_floating_point() or theirs.is_complex()) or not theirs.ndim:
            continue
        wide = torch.complex128 if theirs.is_complex() else torch.float64
        error = (ours.to(wide) - theirs.to(wide)).abs().square()
        real = real_of(batch, error.shape[:2])
        kept = torch.ones_like(error) if real is None else _along(real, error)
        total.append((error * kept).reshape(len(error), -1).sum(dim=1))
        count.append(kept.reshape(len(error), -1).sum(dim=1))
    if not total:
        raise ValueError(
            "the outputs hold no floating-point tensor with an axis of examples, so two models "
            "cannot be compared by them: define `agreement` and `distance` in the task"
        )
    return torch.stack(total).sum(dim=0) / torch.stack(count).sum(dim=0).clamp(min=1)


def real_of(batch: Batch, positions: torch.Size) -> Tensor | None:
    """The real ones of positions (batch, length) of an output; None if no input has these, or
    nothing is padding."""
    masks = [real for real in batch.real.values() if real.shape == positions]
    return masks[0] if len(masks) == 1 and batch.is_padded else None


def _along(real: Tensor, values: Tensor) -> Tensor:
    shape = real.shape + (1,) * (values.ndim - 2)
    return real.view(shape).to(values).expand(values.shape)


def agreement_metrics(one: str = "prediction") -> tuple[Metric, ...]:
    """The metrics that `class_agreement` measures; `one` names the unit of a prediction, such as an
    image.
    """
    return (
        Metric(
            "flipped",
            "share of predictions that differ\nfrom the dense model's (test split)",
            "flipped (%)",
            "percent",
            higher_is_better=False,
            dense=0.0,
            average="mean",
        ),
        Metric(
            "kl",
            f"KL(dense ‖ compressed)\n(test split, nats per {one})",
            "KL (nats)",
            higher_is_better=False,
            dense=0.0,
            average="mean",
        ),
    )


def class_agreement(outputs: Tensor, dense: Tensor) -> dict[str, Tensor]:
    """The agreement of two models that score classes along axis 1, for each prediction of a batch:

    - "flipped": 1 where the predictions, the classes with the highest scores, differ, else 0;
    - "kl": KL(dense ‖ compressed) of their softmax distributions, in nats.

    Args:
        outputs, dense: scores (batch, classes, …) of the compressed and of the dense model.

    Returns:
        float64 tensors of shape (batch, …).
    """
    rows = max(1, CHUNK * len(outputs) // max(1, outputs.numel()))
    parts = zip(outputs.split(rows), dense.split(rows), strict=True)
    flipped, divergence = zip(*(_of_chunk(*part) for part in parts), strict=True)
    return {"flipped": torch.cat(flipped), "kl": torch.cat(divergence)}


def counted_agreement(outputs: Tensor, dense: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """`class_agreement` of the predictions that count, one after the other.

    Args:
        outputs, dense: scores (batch, length, classes), of which nothing is copied as a whole.
        counted: bool (batch, length).
    """
    parts = [
        class_agreement(ours[real], theirs[real])
        for ours, theirs, real in in_parts(*_flat(outputs, dense, counted))
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _of_chunk(outputs: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    changed = outputs.argmax(dim=1) != dense.argmax(dim=1)
    # float32 cannot resolve the small divergences of a nearly lossless compression.
    log_q, log_p = F.log_softmax(outputs.double(), dim=1), F.log_softmax(dense.double(), dim=1)
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
    return changed.double(), divergence


def class_divergence(outputs: Tensor, dense: Tensor) -> Tensor:
    """The mean over the predictions of KL(dense ‖ compressed), differentiable in `outputs`.

    Args:
        outputs, dense: (batch, classes, …) scores of the compressed and of the dense model.
    """
    return _divergences(outputs, dense).mean()


def counted_divergence(outputs: Tensor, dense: Tensor, counted: Tensor) -> Tensor:
    """`class_divergence` of the predictions that count.

    Args:
        outputs, dense: scores (batch, length, classes), of which nothing is copied as a whole.
        counted: bool (batch, length).
    """
    parts = in_parts(*_flat(outputs, dense, counted))
    each = [_divergences(ours[real], theirs[real]) for ours, theirs, real in parts]
    return torch.cat(each).mean()


def _flat(outputs: Tensor, dense: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return outputs.flatten(0, 1), dense.flatten(0, 1), counted.flatten()


def _divergences(outputs: Tensor, dense: Tensor) -> Tensor:
    """KL(dense ‖ compressed) of each prediction, (batch, …)."""
    log_q, log_p = F.log_softmax(outputs, dim=1), F.log_softmax(dense, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
