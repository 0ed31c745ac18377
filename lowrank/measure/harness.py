"""Scores of a language model on the tasks of lm-evaluation-harness, an optional extra."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.forward import evaluating


class Scores(NamedTuple):
    """Scores of the harness.

    Attributes:
        values: by name.
        metrics: what each of them means.
        left_out: the reason why others are not there, by name.
    """

    values: dict[str, float]
    metrics: tuple[Metric, ...]
    left_out: dict[str, str]


def check_harness() -> None:
    """Raise MissingExtra unless lm-evaluation-harness is installed."""
    need("scores of lm-evaluation-harness", "lm_eval", instead="name no harness tasks")


def check_tasks(tasks: Sequence[str]) -> Any:
    """The harness's manager of its tasks; takes seconds the first time.

    Raises:
        ValueError: there is no such task.
    """
    manager = _task_manager()
    try:
        manager.load(list(tasks))
    except KeyError as error:
        raise ValueError(f"the harness has no task: {error.args[0]}") from error
    return manager


def harness_scores(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    limit: int | None = None,
    batch_size: int = 8,
) -> Scores:
    """Scores of a dense or compressed model, as the harness counts them.

    The harness loads the data of its tasks itself, from the Hugging Face hub.

    Args:
        model: a causal model of the transformers library; its layers may be factorized.
        tokenizer: of the model.
        tasks: names of tasks or groups, such as ``arc_easy``, or files with tasks of one's own.
        limit: examples of each task, its first; all if not given.

    Returns:
        ``<task>_<metric>`` of each metric (with ``_<filter>`` if a task filters answers), and
        ``<task>_examples``. Of an accuracy p over n examples the standard error is √(p (1−p) / n).
        Those of which the harness does not say which way is better are left out, with the reason.

    Raises:
        ValueError: the harness is not installed, there is no such task, or limit is below 1.

    Source: Gao et al., The Language Model Evaluation Harness, doi 10.5281/zenodo.12608602.
    """
    check_harness()
    if not tasks or (limit is not None and limit < 1):
        raise ValueError(f"tasks={list(tasks)} must not be empty and limit={limit} at least 1")
    from lm_eval import simple_evaluate  # type: ignore
    from lm_eval.models.huggingface import HFLM  # type: ignore

    manager = check_tasks(tasks)
    with evaluating(model), _tied_as_they_are(model):
        # A copy of the tokenizer, because the harness sets its padding token.
        wrapped = HFLM(model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)  # type: ignore
        report = simple_evaluate(
            wrapped,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
            log_samples=False,
            # The caller's random state stays as it is.
            random_seed=None,  # type: ignore
            numpy_random_seed=None,  # type: ignore
            torch_random_seed=None,  # type: ignore
        )
    assert report is not None
    return scores_of(report)


@functools.cache
def _task_manager() -> Any:
    """The index of all tasks; reading their thousands of files takes seconds."""
    from lm_eval.tasks import TaskManager  # type: ignore

    return TaskManager()


def scores_of(report: Any) -> Scores:
    """The scores in the report of the harness."""
    found = Scores({}, (), {})
    for task, entries in report["results"].items():
        better = report["higher_is_better"].get(task) or {}
        for key, value in entries.items():
            metric, _, answer_filter = key.partition(",")
            if not answer_filter or not isinstance(value, int | float):
                continue
            name = f"{task}_{metric}" + ("" if answer_filter == "none" else f"_{answer_filter}")
            if better.get(metric) is None:
                found.left_out[name] = "the harness does not say which way is better"
                continue
            found.values[name] = float(value)
            meaning = Metric(name, f"{metric} ({task})", name, higher_is_better=better[metric])
            found = found._replace(metrics=(*found.metrics, meaning))
    for task, count in report["n-samples"].items():
        name = f"{task}_examples"
        found.values[name] = float(count["effective"])
        meaning = Metric(name, f"examples ({task})", name, "whole", minor=True)
        found = found._replace(metrics=(*found.metrics, meaning))
    return found


@contextmanager
def _tied_as_they_are(model: Any) -> Iterator[None]:
    """Without `tie_weights`, by which the harness would undo a compressed head."""
    model.tie_weights = lambda *_, **__: None
    try:
        yield
    finally:
        del model.tie_weights
