"""Where a compressed language model loses: by the frequency and the position of tokens, and in the
text that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.inspection.directions import scores_of_targets
from lowrank.inspection.similarity import first_of
from lowrank.model.batch import Batch
from lowrank.model.forward import evaluating
from lowrank.numerics.checks import check_integer
from lowrank.statistics.estimates import Estimate, weighted_mean
from lowrank.tasks.task import Task


@dataclass(frozen=True, eq=False)
class TokenChanges:
    """The change of the loss of tokens, compressed − dense, in nats: means ± standard errors over
    the sequences.

    Attributes:
        by_frequency: by how often the token is the target in the same sequences: "1", "2–3", "4–7",
            and so on, in octaves.
        by_position: by the position in the sequence: "0", "1", "2–3", and so on.
    """

    by_frequency: Mapping[str, Estimate]
    by_position: Mapping[str, Estimate]


@dataclass(frozen=True, eq=False)
class GenerationAgreement:
    """Agreement of two models in greedy continuations, over the prompts.

    Attributes:
        same: the share of equal tokens at equal places.
        prefix: the number of tokens before the first that differs.
    """

    same: Estimate
    prefix: Estimate


def token_changes(
    dense: nn.Module, compressed: nn.Module, task: Task, examples: int = 64
) -> TokenChanges:
    """The change of the loss of tokens by their frequency and by their position.

    Args:
        task: with scores of tokens (batch, length, tokens), and targets (batch, length).
        examples: the first sequences of the test split.

    Raises:
        ValueError: the task predicts no tokens.
    """
    check_integer("examples", examples, least=1)
    batch = first_of(task, examples)
    before, after = (_losses(model, task, batch) for model in (dense, compressed))
    targets = batch.targets
    counted = targets >= 0
    numbers, place = targets[counted].unique(return_inverse=True)
    often = torch.zeros_like(targets)
    often[counted] = torch.bincount(place, minlength=len(numbers))[place]
    positions = torch.arange(targets.shape[1], device=targets.device).expand_as(targets)
    changes = (after - before).cpu()
    return TokenChanges(
        _by_octave(often.cpu(), counted.cpu(), changes),
        _by_octave(positions.cpu(), counted.cpu(), changes),
    )


def generation_agreement(
    dense: nn.Module,
    compressed: nn.Module,
    task: Task,
    examples: int = 8,
    prompt: int = 16,
    length: int = 32,
) -> GenerationAgreement:
    """The agreement of greedy continuations of the first tokens of test sequences.

    After the first token that differs the texts go their own ways, so `same` falls with `length`.

    Args:
        task: of a model that takes tokens (batch, length) alone.
        examples: the first sequences of the test split.
        prompt, length: the number of tokens given, and of those written after them.

    Raises:
        ValueError: the inputs are no sequences of tokens as long as `prompt`.
    """
    for name, value in (("examples", examples), ("prompt", prompt), ("length", length)):
        check_integer(name, value, least=1)
    batch = first_of(task, examples)
    inputs = next(
        iter(batch.inputs.values() if isinstance(batch.inputs, Mapping) else batch.inputs)
    )
    is_tokens = isinstance(inputs, Tensor) and inputs.ndim == 2 and inputs.dtype == torch.int64
    if len(batch.inputs) != 1 or not is_tokens or inputs.shape[1] < prompt:
        raise ValueError(
            f"continuations need inputs of at least prompt={prompt} tokens alone, int64 (batch, "
            "length): give a task of a language model, or a shorter prompt"
        )
    start = inputs[:, :prompt]
    texts = [_continued(model, task, start, length) for model in (dense, compressed)]
    same = (texts[0] == texts[1]).double().cpu()
    prefix = same.cumprod(dim=1).sum(dim=1)
    weights, rows = np.ones(len(same)), np.arange(len(same))
    return GenerationAgreement(
        weighted_mean(same.mean(dim=1).numpy(), weights, rows),
        weighted_mean(prefix.numpy(), weights, rows),
    )


def _continued(model: nn.Module, task: Task, tokens: Tensor, length: int) -> Tensor:
    """The tokens that a model writes after those, (batch, length), the likeliest each time."""
    start = tokens.shape[1]
    with evaluating(model), torch.inference_mode():
        for _ in range(length):
            scores = task.forward(model, Batch((tokens,)))
            tokens = torch.cat([tokens, scores[:, -1:].argmax(dim=2)], dim=1)
    return tokens[:, start:]


def _losses(model: nn.Module, task: Task, batch: Batch) -> Tensor:
    """The loss of each token, float64 (batch, length); 0 where none is predicted."""
    found = []
    with evaluating(model), torch.inference_mode():
        for row in range(len(batch)):  # One at a time: logits of a batch would fill the memory.
            part = batch.part(slice(row, row + 1))
            scores = scores_of_targets(task.forward(model, part), part.targets)
            if part.targets.ndim != 2:
                raise ValueError("the task predicts no tokens: its targets are not (batch, length)")
            flat = scores.double().flatten(0, 1)
            losses = F.cross_entropy(
                flat, part.targets.flatten().clamp(min=-1), ignore_index=-1, reduction="none"
            )
            found.append(losses.view_as(part.targets))
    return torch.cat(found)


def _by_octave(numbers: Tensor, counted: Tensor, changes: Tensor) -> dict[str, Estimate]:
    """Means of the changes by octaves of whole numbers (sequences, length), errors over the
    sequences."""
    octaves = torch.where(numbers > 0, numbers.clamp(min=1).log2().floor() + 1, 0).long()
    found = {}
    for octave in octaves[counted].unique().tolist():
        mask = (counted & (octaves == octave)).double()
        weights = mask.sum(dim=1)
        means = (mask * changes).sum(dim=1) / weights.clamp(min=1)
        low, high = (2 ** (octave - 1), 2**octave - 1) if octave else (0, 0)
        name = f"{low}" if low == high else f"{low}–{high}"
        found[name] = weighted_mean(means.numpy(), weights.numpy(), np.arange(len(weights)))
    return found
