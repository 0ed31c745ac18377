"""The meaning of the columns of records: titles, scales, and whether higher is better."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import NONE, Metric, read_metrics

if TYPE_CHECKING:
    import pandas as pd

# The costs of a compressed model. Its quality is measured by the task's metrics.
_COSTS = (
    Metric(
        "compression_ratio",
        "compression ratio\n(whole model, dense bytes / compressed bytes)",
        "compression ratio",
        "ratio",
    ),
    Metric(
        "body_compression_ratio",
        "compression ratio\n(without embeddings and head, dense / compressed bytes)",
        "compression ratio of the body",
        "ratio",
    ),
    Metric(
        "layers_compression_ratio",
        "compression ratio\n(compressed layers, dense bytes / compressed bytes)",
        "compression ratio of the layers",
        "ratio",
    ),
    Metric(
        "layers_bits_per_weight",
        "bits per weight\n(compressed layers, all stored bits / weights)",
        "bits per weight",
        "bits",
        higher_is_better=False,
    ),
    Metric(
        "param_ratio",
        "parameter ratio\n(whole model, dense params / compressed params)",
        "param ratio",
        "ratio",
    ),
    Metric(
        "layers_param_ratio",
        "parameter ratio\n(compressed layers, dense params / compressed params)",
        "param ratio of the layers",
        "ratio",
    ),
    Metric(
        "theoretical_speedup",
        "theoretical speedup\n(one example, dense MACs / compressed MACs)",
        "theoretical speedup",
        "ratio",
    ),
    Metric(
        "trainable_ratio",
        "ratio of trainable parameters\n(whole model, dense / compressed)",
        "ratio of trainable params",
        "ratio",
    ),
    Metric(
        "trainable_params",
        "trainable parameters",
        "trainable params",
        "whole",
        higher_is_better=False,
    ),
    Metric(
        "trainable_bytes",
        "bytes of trainable parameters",
        "trainable bytes",
        "whole",
        higher_is_better=False,
    ),
    Metric("coverage", "share of the parameters in compressed weights", "coverage (%)", "percent"),
    Metric("params", "parameters", "params", "whole", higher_is_better=False),
    Metric("bytes", "bytes", "bytes", "whole", higher_is_better=False),
    Metric(
        "body_bytes",
        "bytes without embeddings and head",
        "bytes of the body",
        "whole",
        higher_is_better=False,
    ),
    Metric("macs", "multiply-accumulates of one example", "MACs", "whole", higher_is_better=False),
    Metric(
        "peak_memory_bytes",
        "peak memory in bytes, of one example",
        "peak memory",
        "whole",
        higher_is_better=False,
    ),
)
COSTS: Mapping[str, Metric] = {cost.name: cost for cost in _COSTS}


def level_text(level: float | None) -> str:
    """A level for people; a dash where a method has none."""
    return NONE if level is None or level != level else f"{level:g}"


# If a smaller share of a model is compressed, the size of the whole says little about a method.
MOSTLY = 0.9


def usual_size(frame: pd.DataFrame) -> str:
    """The default measure of size in figures and tables: ``compression_ratio``, or bits.

    ``layers_bits_per_weight`` where most of them compressed less than 90 % of a model. (Of a sweep
    over all layers, the weakest levels may leave a layer dense.)
    """
    bits = "layers_bits_per_weight"
    if "coverage" not in frame or bits not in frame or all(frame[bits].isna()):
        return "compression_ratio"
    return bits if float(frame["coverage"].median()) < MOSTLY else "compression_ratio"  # type: ignore


def metrics_of(frame: pd.DataFrame) -> dict[str, Metric]:
    """The metrics of the task of these records, by name; the first is its primary one.

    Raises:
        ValueError: the rows are none of `lowrank.records.store.load`, or say different things of
            one metric, as those of two tasks may.
    """
    if "metrics" not in frame:
        raise ValueError("the rows have no column 'metrics': take those that records load as")
    found: dict[str, Metric] = {}
    for text in dict.fromkeys(frame["metrics"]):
        for metric in _parsed(text):
            if found.setdefault(metric.name, metric) != metric:
                raise ValueError(
                    f"the records say different things of metric {metric.name!r}: select those of "
                    "one task"
                )
    return found


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> tuple[Metric, ...]:
    return read_metrics(json.loads(text), "metrics")


def measure(frame: pd.DataFrame, column: str) -> Metric:
    """The metric in a column. That of a measured time names threads, device and dtype.

    Raises:
        ValueError: the frame has no such column, or the records do not say what is in it.
    """
    if column not in frame:
        raise ValueError(f"the records hold no column {column!r} to draw")
    if column in COSTS:
        return COSTS[column]
    metrics = metrics_of(frame)
    if column in metrics:
        return metrics[column]
    own = column.removeprefix("validation_")
    return _on_validation(metrics[own]) if own in metrics else _timed(frame, column)


def _on_validation(metric: Metric) -> Metric:
    """The same measure on the validation split, which is no average of outcomes on record."""
    name, heading = f"validation_{metric.name}", f"{metric.heading}, validation"
    return replace(metric.on("validation"), name=name, heading=heading, dense=None, average=None)


def _timed(frame: pd.DataFrame, column: str) -> Metric:
    """A speedup or a latency of one batch size."""
    found = re.fullmatch(r"(speedup|latency)_b(\d+)(_s)?", column)
    kind, batch, seconds = found.groups() if found else ("", "", None)
    if (kind == "latency") != bool(seconds) or f"latency_b{batch}_device" not in frame:
        held = [name for name in (*COSTS, *metrics_of(frame)) if name in frame]
        raise ValueError(
            f"the records do not say what {column!r} is, nor which way is better; they do of "
            f"{', '.join(held)}"
        )
    device, threads, dtype = (
        "/".join(map(_text, frame[f"latency_b{batch}_{name}"].dropna().unique()))
        for name in ("device", "threads", "dtype")
    )
    where = f"batch {batch}, {device}, {threads} thread{'' if threads == '1' else 's'}, {dtype}"
    if seconds:
        title = f"latency (median, seconds)\n{where}"
        return Metric(column, title, f"latency, batch {batch}", higher_is_better=False)
    title = f"measured speedup (dense / compressed time)\n{where}"
    return Metric(column, title, f"speedup, batch {batch}", "ratio")


def _text(value: Any) -> str:
    # pandas makes integers floats in a column where some records lack the value.
    return f"{value:g}" if isinstance(value, float) else str(value)
