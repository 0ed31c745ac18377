"""Agreement between the outputs of a compressed model and those of the dense one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.metrics.metric import Metric
from lowrank.model.nested import tensors

# Values converted to float64 at a time: a few MB, which stay in the processor's cache.
CHUNK = 2**18


# The metric that `output_error` measures.
OUTPUT_ERROR = Metric(
    "output_error",
    "mean squared error to the dense model's outputs\n(test split)",
    "output error",
    higher_is_better=False,
    dense=0.0,
)


def output_error(outputs: Any, dense: Any) -> Tensor:
    """The mean of (y − ŷ)² over all floating-point outputs of each example, float64 (batch,).

    The error is absolute, since the outputs of an example may be near 0. Differentiable in
    `outputs`.

    Args:
        outputs, dense: those of the compressed and of the dense model: tensors, alone or in
            containers, each with the batch as its first axis.
    """
    errors = [
        (ours.double() - theirs.double()).square().flatten(1)
        for ours, theirs in zip(tensors(outputs), tensors(dense), strict=True)
        if theirs.is_floating_point()
    ]
    return torch.cat(errors, dim=1).mean(dim=1)


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
        ),
        Metric(
            "kl",
            f"KL(dense ‖ compressed)\n(test split, nats per {one})",
            "KL (nats)",
            higher_is_better=False,
            dense=0.0,
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
    log_q, log_p = F.log_softmax(outputs, dim=1), F.log_softmax(dense, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1).mean()
