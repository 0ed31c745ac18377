"""Greedy continuations of texts by language models."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.model.forward import evaluating
from lowrank.numerics.checks import check_integer

if TYPE_CHECKING:
    from lowrank.tasks.task import Task

CACHE = "past_key_values"


def continued(model: nn.Module, task: Task, prompts: Tensor, written: int) -> Tensor:
    """The `written` tokens that a model writes after prompts, the likeliest each time, int64
    (prompts, written).

    A token for the end of a text ends nothing: all continuations are of one length. A model of the
    library transformers that can keep its keys and values does.

    Args:
        task: whose model gives scores (batch, length, tokens).
        prompts: int64 (prompts, length), as `Task.prompts` gives them.
    """
    check_integer("written", written, least=1)
    may_keep = CACHE in inspect.signature(model.forward).parameters
    text, kept = prompts, None
    with evaluating(model), torch.inference_mode():
        for _ in range(written):
            if may_keep:
                given = text if kept is None else text[:, -1:]
                outputs: Any = model(given, use_cache=True, past_key_values=kept)
                scores, kept = outputs.logits, outputs.past_key_values
            else:
                scores = task.forward(model, Batch((text,)))
            text = torch.cat([text, scores[:, -1:].argmax(dim=2)], dim=1)
    return text[:, prompts.shape[1] :]


def beginnings(inputs: Tensor, count: int, given: int, written: int) -> Tensor:
    """The first `given` tokens of `count` inputs from all over a split, int64 (count, given).

    Args:
        inputs: int64 (inputs, length).
        written: the number of tokens that a model will write after them.

    Raises:
        ValueError: fewer inputs, or inputs shorter than what is given and written.
    """
    for name, value in (("prompts", count), ("given", given), ("written", written)):
        check_integer(name, value, least=1)
    if count > len(inputs):
        raise ValueError(f"prompts={count} is more than the {len(inputs)} inputs of the test split")
    if given + written > inputs.shape[1]:
        raise ValueError(
            f"given={given} and written={written} are {given + written} tokens, more than the "
            f"{inputs.shape[1]} of an input, to which the model is measured"
        )
    rows = torch.arange(count, device=inputs.device) * len(inputs) // count
    return inputs[rows, :given]
