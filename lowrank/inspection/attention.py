"""Attention maps of a model on one example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowrank.model.forward import evaluating
from lowrank.tasks.task import Task

# By which the models of transformers are known.
SETTER = "set_attn_implementation"
PLAIN = "eager"


def attention_maps(model: nn.Module, task: Task, row: int = 0) -> list[Tensor]:
    """The attention of each layer on one example: float64 (heads, queries, keys); rows sum to 1.

    Fused attention computes no maps, so the model runs with its plain one, and afterwards with that
    which it had.

    Args:
        model: a model of the library transformers, or one that holds such a model.
        row: of the example in the test split.

    Raises:
        ValueError: the model does not give its attention, or there is no such example.
    """
    check_row(row, task)
    test = task.split("test")
    inner: Any = next((one for one in model.modules() if hasattr(one, SETTER)), None)
    if inner is None:
        raise ValueError(
            f"{type(model).__name__} does not give its attention: it holds no model of transformers"
        )
    found: list[Any] = []
    config = inner.config
    before = config._attn_implementation, config.output_attentions
    hook = inner.register_forward_hook(lambda *call: found.append(call[2]))
    try:
        if before[0] != PLAIN:
            getattr(inner, SETTER)(PLAIN)
        if config._attn_implementation != PLAIN:
            raise ValueError(
                f"{type(inner).__name__} cannot change to attention that gives its maps: load it "
                f"with attn_implementation={PLAIN!r}"
            )
        config.output_attentions = True
        with evaluating(model), torch.inference_mode():
            task.forward(model, test.batch(torch.tensor([row])))
    finally:
        hook.remove()
        config.output_attentions = before[1]
        if config._attn_implementation != before[0]:
            getattr(inner, SETTER)(before[0])
    maps = getattr(found[-1], "attentions", None) if found else None
    if not maps or any(one is None for one in maps):
        raise ValueError(f"{type(inner).__name__} gives no attention: its outputs hold none")
    return [one[0].double().cpu() for one in maps]


def check_row(row: int, task: Task) -> None:
    """Raise ValueError unless `row` is an example of the test split."""
    count = len(task.split("test"))
    if not 0 <= row < count:
        raise ValueError(f"row={row} is no example: the test split has 0..{count - 1}")
