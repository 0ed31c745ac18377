"""Settings of the measures of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lowrank.execution.kernel import Accuracy, Kernel, check_accuracy
from lowrank.execution.kernels import KERNELS
from lowrank.execution.search import Search
from lowrank.measure.harness import check_harness
from lowrank.numerics.checks import check_integer, check_is, check_list, check_positive
from lowrank.tasks.task import Task

LATENCY_SECONDS = 0.2


@dataclass(frozen=True)
class Optimize:
    """The kernels with which a model may be timed, a user's own among them.

    Args:
        accuracy: the largest change of outputs allowed; see `lowrank.execution.optimize_for`.
        kernels: kernels tried besides `lowrank.execution.KERNELS`, each with a name of its own;
            dataclasses, so that a record can hold them.

    Raises:
        ValueError: another accuracy; an object that is no kernel; a name that another kernel has.
    """

    accuracy: Accuracy = "exact"
    kernels: Sequence[Kernel] = ()

    def __post_init__(self) -> None:
        check_accuracy(self.accuracy)
        check_list("kernels", self.kernels)
        _ = self.search(LATENCY_SECONDS, None)

    def search(self, seconds: float, threads: int | None) -> Search:
        """The search among the kernels; see `Search`."""
        return Search(seconds, threads, (*KERNELS, *self.kernels))


@dataclass(frozen=True)
class Generation:
    """Greedy continuations of test texts by both models, of which the record has how long they are
    the same; for language models.

    Args:
        prompts: the number of texts, from all over the test split.
        given: tokens of each that the models are given.
        written: tokens that each model writes after them.

    Raises:
        ValueError: one of them is no whole number from 1.
    """

    prompts: int = 32
    given: int = 32
    written: int = 64

    def __post_init__(self) -> None:
        for name in ("prompts", "given", "written"):
            check_integer(name, getattr(self, name), least=1)

    def beginnings(self, task: Task) -> Tensor:
        """The prompts of a task; see `Task.prompts`."""
        return task.prompts(self.prompts, self.given, self.written)


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of the measures, the same for the dense and the compressed model.

    Args:
        batch_size: examples per batch in the evaluation of quality and in the harness; the task's
            own if not given (see `Task.batch_sizes`).
        latency_batch_sizes: batch sizes at which the models are timed; () measures no latency; the
            task's own if not given.
        latency_seconds: about how long one comparison of latency takes; see `compare_latency`.
        threads: CPU threads while timing; torch's present number if not given.
        optimize: time the compressed model with the kernels that `lowrank.execution.optimize_for`
            chooses for each batch size, none of which changes more than this accuracy ("exact",
            "bfloat16", "int8"); `Optimize` adds a user's own kernels; None times the model without
            a choice of kernels.
        harness_tasks: tasks of lm-evaluation-harness, for language models; see `harness_scores`.
        harness_limit: examples of each of them; all if not given.
        generation: the continuations of texts that are compared; none if not given.

    Raises:
        ValueError: an option outside its range, or one that would have no effect.
    """

    batch_size: int | None = None
    latency_batch_sizes: Sequence[int] | None = None
    latency_seconds: float = LATENCY_SECONDS
    threads: int | None = None
    optimize: Accuracy | Optimize | None = None
    harness_tasks: Sequence[str] = ()
    harness_limit: int | None = None
    generation: Generation | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, least=1)
        sizes = () if self.latency_batch_sizes is None else self.latency_batch_sizes
        check_list("latency_batch_sizes", sizes)
        for size in sizes:
            check_integer("latency_batch_sizes", size, least=1)
        if len(set(sizes)) < len(sizes):
            raise ValueError(f"latency_batch_sizes={sizes} has one size twice")
        check_positive("latency_seconds", self.latency_seconds)
        if self.threads is not None:
            check_integer("threads", self.threads, least=1)
        if self.optimize is not None and not isinstance(self.optimize, Optimize):
            check_accuracy(self.optimize)
        if self.harness_limit is not None:
            check_integer("harness_limit", self.harness_limit, least=1)
        check_list("harness_tasks", self.harness_tasks)
        if not all(isinstance(task, str) and task for task in self.harness_tasks):
            raise ValueError(f"harness_tasks={self.harness_tasks!r} must be names of tasks")
        if self.generation is not None:
            check_is("generation", self.generation, Generation, "Generation(prompts=32)")
        self._check_idle()
        if self.harness_tasks:
            check_harness()

    def _check_idle(self) -> None:
        """Raise ValueError for an option that has no effect beside the others."""
        idle = {}
        if self.harness_limit is not None and not self.harness_tasks:
            idle["harness_limit"] = "harness_tasks"
        if self.latency_batch_sizes is not None and not self.latency_batch_sizes:
            if self.latency_seconds != LATENCY_SECONDS:
                idle["latency_seconds"] = "latency_batch_sizes"
            if self.optimize is not None:
                idle["optimize"] = "latency_batch_sizes"
        for name, missing in idle.items():
            raise ValueError(
                f"{name}={getattr(self, name)!r} has no effect without {missing}: leave it out, or "
                f"give {missing}"
            )

    @property
    def kernels(self) -> Optimize | None:
        """The kernels with which the compressed model is timed; None if none are chosen."""
        if self.optimize is None or isinstance(self.optimize, Optimize):
            return self.optimize
        return Optimize(self.optimize)

    def check_data(self, task: Task) -> None:
        """Check that the data of a task suit what is measured beside its metrics; reads them.

        Raises:
            ValueError: there are continuations to compare, and no such texts; see `Task.prompts`.
        """
        if self.generation is not None:
            self.generation.beginnings(task)

    def of(self, task: Task) -> MeasureSettings:
        """These settings, with the task's own values where none are given.

        Raises:
            ValueError: there are harness tasks, and the task has no language model.
        """
        if self.harness_tasks:
            _ = task.tokenizer
        suits = task.batch_sizes
        return replace(
            self,
            batch_size=suits.quality if self.batch_size is None else self.batch_size,
            latency_batch_sizes=(
                suits.latency if self.latency_batch_sizes is None else self.latency_batch_sizes
            ),
        )
