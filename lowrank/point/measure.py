"""The measures of a dense and a compressed model, in the form of a record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from lowrank import execution
from lowrank.measure.harness import Scores, harness_scores
from lowrank.measure.latency import compare_latency
from lowrank.measure.macs import layer_macs
from lowrank.measure.memory import peak_memory
from lowrank.measure.size import (
    body_bytes,
    nbytes,
    params,
    stored_dtype,
    trainable_bytes,
    trainable_params,
)
from lowrank.metrics.metric import Metric
from lowrank.model.forward import Example
from lowrank.point.examples import ExampleValues, Texts, paired
from lowrank.point.quality import evaluate
from lowrank.point.room import check_room
from lowrank.point.settings import MeasureSettings
from lowrank.point.standard_errors import standard_errors
from lowrank.point.tally import declared, on_record
from lowrank.tasks.continuations import continued

if TYPE_CHECKING:
    from lowrank.compression.layer_report import LayerReport
    from lowrank.compression.report import Compressed
    from lowrank.tasks.task import Task


@dataclass(frozen=True)
class Measured:
    """A model with its measures.

    Attributes:
        values: quality on the test split, sizes, MACs and peak memory of one example, and scores
            on the tasks of the harness, by name.
        outputs: its outputs on the test split; see `Evaluation`.
        examples: its outcomes on each example of the test split.
        metrics: the names, units and directions of its quality measures; the first is the primary
            one.
        undefined: measures without a value, each with the reason; see `Evaluation`.
        layer_macs: the MACs of one example, by the name of the module.
    """

    model: nn.Module = field(repr=False)
    values: dict[str, float]
    outputs: Iterable[Any] = field(repr=False)
    examples: ExampleValues = field(repr=False)
    metrics: tuple[Metric, ...] = field(repr=False)
    undefined: dict[str, str] = field(default_factory=dict)
    layer_macs: Mapping[str, int] = field(default_factory=dict, repr=False)


def measure(
    model: nn.Module,
    task: Task,
    settings: MeasureSettings,
    dense: Measured | None = None,
    counted: Mapping[str, int] | None = None,
) -> Measured:
    """Quality, sizes, MACs and peak memory of a model.

    Args:
        dense: the measured dense model, to measure the agreement with it.
        counted: the result of `lowrank.measure.layer_macs` for the model, if known.

    Raises:
        ValueError: outputs that are not finite (see `evaluate`); harness tasks for a task without a
            language model; or, for a dense model, too little memory for it and a compressed one
            (see `check_room`).
    """
    settings = settings.of(task)
    assert settings.batch_size is not None
    if dense is None:
        check_room(model, task, settings)
    reference = None if dense is None else dense.outputs
    quality = evaluate(model, task, batch_size=settings.batch_size, reference=reference)
    example = task.example(1)
    counted = layer_macs(model, example) if counted is None else counted
    values = quality.metrics | _costs(model, example, counted[""])
    scores = Scores({}, (), {})
    if settings.harness_tasks:
        names, limit = settings.harness_tasks, settings.harness_limit
        scores = harness_scores(model, task.tokenizer, names, limit, settings.batch_size)
    held, undefined = on_record(scores.values)
    undefined = quality.undefined | undefined | scores.left_out
    metrics = (*declared(task), *scores.metrics)
    examples = quality.examples
    if settings.generation is not None:
        prompts, written = settings.generation.beginnings(task), settings.generation.written
        texts = Texts(prompts.cpu(), continued(model, task, prompts, written).cpu())
        examples = replace(examples, texts=texts)
    seen = quality.outputs, examples
    return Measured(model, values | held, *seen, metrics, undefined, counted)


def measure_model(model: nn.Module, example: Example) -> dict[str, float]:
    """Sizes, MACs and peak memory (bytes) of a model on the inputs of ONE example."""
    return _costs(model, example, layer_macs(model, example)[""])


def _costs(model: nn.Module, example: Example, macs: int) -> dict[str, float]:
    return {
        "params": params(model),
        "trainable_params": trainable_params(model),
        "trainable_bytes": trainable_bytes(model),
        "bytes": nbytes(model),
        "body_bytes": body_bytes(model),
        "macs": macs,
        "peak_memory_bytes": peak_memory(model, example),
    }


def compare(
    dense: Measured,
    compressed: Measured,
    result: Compressed,
    task: Task,
    settings: MeasureSettings,
) -> dict[str, Any]:
    """The parts of a record that compare two models, and their measures.

    Args:
        result: the result of the compression whose model `compressed` measures.

    Returns:
        "metrics" (each the fields of a `Metric`), "dense", "dense_dtype" (see `stored_dtype`),
        "compressed", "ratios" and "latency" (one entry for each batch size; without a speedup where
        every compressed layer runs as a dense matrix); "standard_errors" over the examples (see
        `lowrank.point.standard_errors`); "undefined" gives the reason for each measure that is left
        out because a model has no finite value of it. If models are optimised,
        an entry of latency has the "kernels" as one line, and "execution" has the plan for each
        batch size; if kernels change more than rounding does, it also has the "quality" of the
        timed model.
    """
    settings = settings.of(task)
    timed = [
        _timed((dense.model, compressed.model), result.layers, task, size, settings)
        for size in settings.latency_batch_sizes or ()
    ]
    of_sizes = ratios(dense.values, compressed.values, result.layers)
    found = {
        "metrics": [asdict(metric) for metric in dense.metrics],
        "dense": dense.values,
        "dense_dtype": stored_dtype(dense.model),
        "compressed": compressed.values,
        "ratios": of_sizes | {"coverage": result.coverage},
        "latency": [latency for latency, _ in timed],
        "standard_errors": standard_errors(
            paired(dense.examples, compressed.examples), dense.metrics
        ),
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
    """The parts of a record with the latency of both models and the plan of their execution."""
    (dense, model), example, run_by, kernels = models, task.example(batch_size), {}, {}
    runs_dense = _run_dense(layers)
    chosen = settings.kernels
    if chosen is not None:
        search = chosen.search(settings.latency_seconds / 10, settings.threads)
        optimized = execution.optimize_for(model, example, chosen.accuracy, search=search)
        model = optimized.model
        kernels = {"kernels": optimized.plan.summary()}
        planned = {layer.name for layer in optimized.plan.layers}
        others = [layer for layer in layers if layer.name not in planned]
        runs_dense = optimized.plan.runs_dense and _run_dense(others)
        run_by = {"batch_size": batch_size, "plan": asdict(optimized.plan)}
        if chosen.accuracy != "exact":
            quality = evaluate(model, task, batch_size=settings.batch_size)
            run_by |= {"quality": quality.metrics}
    latency = compare_latency(dense, model, example, settings.latency_seconds, settings.threads)
    latency = latency.without_speedup() if runs_dense else latency
    return asdict(latency) | kernels, run_by


def _run_dense(layers: Sequence[LayerReport]) -> bool:
    """Whether all layers run as dense matrices, the same work as before compression."""
    return all(layer.kernel == "dense" for layer in layers)


def ratios(
    dense: Mapping[str, float], compressed: Mapping[str, float], layers: Sequence[LayerReport]
) -> dict[str, float | None]:
    """The ratios dense / compressed, better above 1, of the whole model and of the compressed
    layers.

    "body_compression_ratio" leaves out embedding tables and the output head (see `body_bytes`),
    "theoretical_speedup" is the ratio of MACs, "trainable_ratio" that of trainable parameters; each
    is None if one of the models has none. "layers_bits_per_weight" is no ratio to the dense model:
    it is the number of stored bits of the compressed layers over the number of their weights.

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
