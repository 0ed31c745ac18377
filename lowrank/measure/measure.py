"""All measures of one comparison, in the form of a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lowrank.decomposers.checks import check_integer, check_positive
from lowrank.measure.harness import check_harness, harness_scores
from lowrank.measure.latency import compare_latency
from lowrank.measure.macs import macs
from lowrank.measure.memory import peak_memory
from lowrank.measure.quality import Observed, evaluate
from lowrank.measure.room import check_room
from lowrank.measure.size import (
    body_bytes,
    nbytes,
    params,
    stored_dtype,
    trainable_bytes,
    trainable_params,
)

if TYPE_CHECKING:
    from lowrank.execution.kernel import Accuracy
    from lowrank.report import Compressed, LayerReport
    from lowrank.tasks.task import Task


LATENCY_SECONDS = 0.2


@dataclass(frozen=True)
class MeasureSettings:
    """How to measure; the same for the dense and the compressed model.

    Args:
        batch_size: examples per batch when quality is evaluated, and in the harness; what suits the
            task if not given (see `Task.batch_sizes`).
        latency_batch_sizes: batch sizes at which the models are timed, or () to leave it out; what
            suits the task if not given.
        latency_seconds: about how long one comparison of latency takes; see `compare_latency`.
        threads: CPU threads while timing; those that torch uses if not given.
        optimize: time the compressed model with the kernels that `lowrank.execution.optimize_for`
            chooses for each batch size, none of which changes more than this accuracy ("exact",
            "bfloat16", "int8"); None to time it as it runs itself.
        harness_tasks: tasks of lm-evaluation-harness, for language models; see `harness_scores`.
        harness_limit: examples of each of them; all if not given.

    Raises:
        ValueError: an option outside its range, or one that would have no effect.
    """

    batch_size: int | None = None
    latency_batch_sizes: Sequence[int] | None = None
    latency_seconds: float = LATENCY_SECONDS
    threads: int | None = None
    optimize: Accuracy | None = None
    harness_tasks: Sequence[str] = ()
    harness_limit: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, least=1)
        check_list("latency_batch_sizes", self.latency_batch_sizes or ())
        for size in self.latency_batch_sizes or ():
            check_integer("latency_batch_sizes", size, least=1)
        if len(set(self.latency_batch_sizes or ())) < len(self.latency_batch_sizes or ()):
            raise ValueError(f"latency_batch_sizes={self.latency_batch_sizes} has one size twice")
        check_positive("latency_seconds", self.latency_seconds)
        if self.threads is not None:
            check_integer("threads", self.threads, least=1)
        if self.optimize is not None:
            from lowrank.execution.kernel import check_accuracy  # Needs parts of this package.

            check_accuracy(self.optimize)
        if self.harness_limit is not None:
            check_integer("harness_limit", self.harness_limit, least=1)
        check_list("harness_tasks", self.harness_tasks)
        if not all(isinstance(task, str) and task for task in self.harness_tasks):
            raise ValueError(f"harness_tasks={self.harness_tasks!r} must be names of tasks")
        self._check_idle()
        if self.harness_tasks:
            check_harness()

    def _check_idle(self) -> None:
        """Raise ValueError for an option that another one leaves without effect."""
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

    def of(self, task: Task) -> MeasureSettings:
        """These settings with what they leave to the task.

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


def check_list(name: str, values: object) -> None:
    """Raise ValueError unless it is a list or tuple."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f"{name}={values!r} must be a list, such as [{values}]")


@dataclass(frozen=True)
class Measured:
    """A model with its measures.

    Attributes:
        values: quality on the test split, sizes, MACs and peak memory of one example, and scores
            on the tasks of the harness, by name.
        observed: what it gives on the test split; see `Evaluation`.
        undefined: measures that it has not, each with the reason; see `Evaluation`.
    """

    model: nn.Module = field(repr=False)
    values: dict[str, float]
    observed: Iterable[Observed] = field(repr=False)
    undefined: dict[str, str] = field(default_factory=dict)


def measure(
    model: nn.Module, task: Task, settings: MeasureSettings, dense: Measured | None = None
) -> Measured:
    """Quality, sizes, MACs and peak memory of a model.

    Args:
        dense: the measured dense model, to measure the agreement with it.

    Raises:
        ValueError: the model gives outputs that are not finite (see `evaluate`), there are harness
            tasks and the task has no language model, or, for a dense model, the memory will not do
            for it and a compressed one (see `check_room`).
    """
    settings = settings.of(task)
    assert settings.batch_size is not None
    if dense is None:
        check_room(model, task, settings)
    reference = None if dense is None else dense.observed
    quality = evaluate(model, task, batch_size=settings.batch_size, reference=reference)
    values = quality.metrics | measure_model(model, task.example(1))
    if settings.harness_tasks:
        names, limit = settings.harness_tasks, settings.harness_limit
        values |= harness_scores(model, task.tokenizer, names, limit, settings.batch_size)
    return Measured(model, values, quality.observed, quality.undefined)


def measure_model(model: nn.Module, example: tuple[Tensor, ...]) -> dict[str, float]:
    """Sizes, MACs and peak memory (bytes) of a model on the inputs of ONE example."""
    return {
        "params": params(model),
        "trainable_params": trainable_params(model),
        "trainable_bytes": trainable_bytes(model),
        "bytes": nbytes(model),
        "body_bytes": body_bytes(model),
        "macs": macs(model, example),
        "peak_memory_bytes": peak_memory(model, example),
    }


def compare(
    dense: Measured,
    compressed: Measured,
    result: Compressed,
    task: Task,
    settings: MeasureSettings,
) -> dict[str, Any]:
    """The parts of a record that set two models side by side, and those they are made of.

    Args:
        result: what the compression did to the model that `compressed` measures.

    Returns:
        "dense", "dense_dtype" (see `stored_dtype`), "compressed", "ratios" and "latency" (one entry
        for each batch size; without a speedup where every compressed layer runs as a dense matrix);
        "undefined", why measures are left out, where a model has no finite value of one.
        Where models are optimised, an entry of latency has the "kernels" in a line, and "execution"
        has the plan for each batch size; if kernels change more than rounding does, also the
        "quality" of the model that was timed.
    """
    settings = settings.of(task)
    timed = [
        _timed((dense.model, compressed.model), result.layers, task, size, settings)
        for size in settings.latency_batch_sizes or ()
    ]
    of_sizes = ratios(dense.values, compressed.values, result.layers)
    found = {
        "dense": dense.values,
        "dense_dtype": stored_dtype(dense.model),
        "compressed": compressed.values,
        "ratios": of_sizes | {"coverage": result.coverage},
        "latency": [latency for latency, _ in timed],
        "undefined": dense.undefined | compressed.undefined,
    }
    return found | ({} if settings.optimize is None else {"execution": [plan for _, plan in timed]})


def _timed(
    models: tuple[nn.Module, nn.Module],
    layers: Sequence[LayerReport],
    task: Task,
    batch_size: int,
    settings: MeasureSettings,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The latency of a dense and a compressed model, and how that was run, as parts of a record."""
    # Not at the top, because the kernels need parts of this package.
    from lowrank.execution import Search, optimize_for

    (dense, model), example, execution, kernels = models, task.example(batch_size), {}, {}
    runs_dense = _run_dense(layers)
    if settings.optimize is not None:
        search = Search(settings.latency_seconds / 10, settings.threads)
        optimized = optimize_for(model, example, settings.optimize, search=search)
        model = optimized.model
        kernels = {"kernels": optimized.plan.summary()}
        planned = {layer.name for layer in optimized.plan.layers}
        others = [layer for layer in layers if layer.name not in planned]
        runs_dense = optimized.plan.runs_dense and _run_dense(others)
        execution = {"batch_size": batch_size, "plan": asdict(optimized.plan)}
        if settings.optimize != "exact":
            quality = evaluate(model, task, batch_size=settings.batch_size)
            execution |= {"quality": quality.metrics}
    latency = compare_latency(dense, model, example, settings.latency_seconds, settings.threads)
    latency = latency.without_speedup() if runs_dense else latency
    return asdict(latency) | kernels, execution


def _run_dense(layers: Sequence[LayerReport]) -> bool:
    """Whether layers, as they are, run as dense matrices: the work that they did before."""
    return all(layer.kernel == "dense" for layer in layers)


def ratios(
    dense: Mapping[str, float], compressed: Mapping[str, float], layers: Sequence[LayerReport]
) -> dict[str, float | None]:
    """Dense over compressed, above 1 is better: of the whole model, then of the compressed layers.

    "body_compression_ratio" is that of the whole model without embedding tables and output head
    (see `body_bytes`), "theoretical_speedup" the ratio of MACs and "trainable_ratio" that of
    trainable parameters, each None where one of the models has none. "layers_bits_per_weight" is no
    ratio to the dense model: all stored bits of the compressed layers over their weights.

    Raises:
        ValueError: no layer was compressed.
    """
    if not layers:
        raise ValueError("no layer was compressed, so there is nothing to compare: select some")
    return {
        "compression_ratio": dense["bytes"] / compressed["bytes"],
        "body_compression_ratio": _ratio(dense["body_bytes"], compressed["body_bytes"]),
        "param_ratio": dense["params"] / compressed["params"],
        "theoretical_speedup": _ratio(dense["macs"], compressed["macs"]),
        "trainable_ratio": _ratio(dense["trainable_params"], compressed["trainable_params"]),
        "layers_compression_ratio": (
            sum(layer.dense_bytes for layer in layers) / sum(layer.bytes for layer in layers)
        ),
        "layers_param_ratio": (
            sum(layer.dense_params for layer in layers) / sum(layer.params for layer in layers)
        ),
        "layers_bits_per_weight": (
            8
            * sum(layer.bytes for layer in layers)
            / sum(layer.shape[0] * layer.shape[1] for layer in layers)
        ),
    }


def _ratio(dense: float, compressed: float) -> float | None:
    return dense / compressed if dense and compressed else None
