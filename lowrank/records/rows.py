"""Conversion of a record to rows of a table: one for the record, or one for each layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Any

from lowrank.records.checks import LAYER_ERRORS, is_number
from lowrank.records.companions import OF_EXPORT, OUTCOMES
from lowrank.records.keys import point

RECORD_LABELS = ("key", "task", "model", "method", "family", "level", "recovery", "seed")
MEASURED_PARTS = ("environment", "timings", "calibration", "protocol", "sharing")


def labels_of(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that name a record, in both tables."""
    names = (*RECORD_LABELS, "norm", "dense_recovery", "tuned", "allocates")
    derived = {"point": point(record["config"]), "path": str(path)}
    return {name: record[name] for name in names} | derived


def row(labels: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `lowrank.records.store.load`.

    Args:
        labels: `labels_of` the record.

    Raises:
        ValueError: two fields of the record make one column.
    """
    ratios, row = record["ratios"], dict(labels)
    _add(row, {"metrics": json.dumps(record["metrics"])})
    _add(row, record["compressed"])
    _add(row, ratios)
    if "dense_dtype" in record:
        _add(row, {"dense_dtype": record["dense_dtype"]})
    bits, times = ratios.get("layers_bits_per_weight"), ratios.get("layers_compression_ratio")
    if bits is not None and times is not None:
        _add(row, {"dense_layers_bits_per_weight": bits * times})
    _add(row, _of_its_own(record, record["dense"], "dense_{}"))
    for name in ("dense_before_recovery", "dense_moved", "dense_whole_test", "validation"):
        _add(row, {f"{name}_{measure}": value for measure, value in record.get(name, {}).items()})
    errors = record["standard_errors"]
    _add(row, {f"{measure}_se": error for measure, error in errors["compressed"].items()})
    _add(row, _of_its_own(record, errors["dense"], "dense_{}_se"))
    _add(row, _of_its_own(record, errors["change"], "{}_change_se"))
    _add(row, {OUTCOMES.field: OUTCOMES.named(record)})
    _add(row, {name: record[name] for name in OF_EXPORT if name in record})
    for latency in record["latency"]:
        _add(row, _latency(latency))
    losses = record.get("recovered", {}).get("losses")
    if isinstance(losses, list) and losses and is_number(losses[-1]):
        _add(row, {"train_loss": losses[-1]})
    counted = {"compressed": "layers", "skipped": "skipped", "left": "left"}
    _add(row, {f"{how}_layers": len(record.get(name, [])) for how, name in counted.items()})
    for name in MEASURED_PARTS:
        _add(row, _flat(record.get(name) or {}, f"{name}."))
    for name, value in record["config"].items():
        nested = isinstance(value, Mapping)
        _add(row, _flat(value, f"{name}.") if nested else _flat({name: value}, "config."))
    return row


def layer_rows(labels: Mapping[str, Any], record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns of `lowrank.records.store.load_layers`, for each layer in turn.

    Args:
        labels: `labels_of` the record.

    Raises:
        ValueError: two fields of a layer make one column.
    """
    norm, rows = labels["norm"], []
    labels = {name: value for name, value in labels.items() if name != "norm"}
    labels["compression_ratio"] = record["ratios"]["compression_ratio"]
    for position, layer in enumerate(record["layers"]):
        (out, into), row = layer["shape"], {**labels, "position": position}
        own = {name: value for name, value in layer.items() if name not in ("shape", "tied_to")}
        own = {"norm": norm, "norm_error": layer["relative_error"]} | own
        # A column of nothing but None would be one of objects, of which there is no mean.
        own |= {name: nan for name in LAYER_ERRORS if own[name] is None}
        _add(row, own | {"tied_to": ", ".join(layer["tied_to"])})
        _add(row, {"out": out, "in": into})
        rows.append(row)
    return rows


def _add(row: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Fill a row, in place, with more columns.

    Raises:
        ValueError: it has a column of that name, for the one would be read as the other.
    """
    twice = sorted(row.keys() & more.keys())
    if twice:
        named = ", ".join(ascii(name)[:60] for name in twice[:5])
        raise ValueError(f"it names {named} more than once, and a column has one value")
    row |= more


def _of_its_own(
    record: Mapping[str, Any], values: Mapping[str, Any], column: str
) -> dict[str, Any]:
    """Values of the dense model by column, without those that it has by definition.

    Of a dense model with a recovery, records of earlier versions have there how far it is from the
    model before: not to be subtracted from how far a compressed model is from it.
    """
    given = {one["name"] for one in record["metrics"] if one.get("dense") is not None}
    return {column.format(name): value for name, value in values.items() if name not in given}


def _latency(latency: Mapping[str, Any]) -> dict[str, Any]:
    batch = f"b{latency['batch_size']}"
    names = {
        "compressed_s": f"latency_{batch}_s",
        "compressed_iqr_s": f"latency_{batch}_iqr_s",
        "dense_s": f"dense_latency_{batch}_s",
        "dense_iqr_s": f"dense_latency_{batch}_iqr_s",
        "speedup": f"speedup_{batch}",
        "speedup_low": f"speedup_{batch}_low",
        "speedup_high": f"speedup_{batch}_high",
    }
    others = {name: f"latency_{batch}_{name}" for name in latency if name != "batch_size"}
    return {(others | names)[name]: value for name, value in latency.items() if name in others}


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    """Nested mappings, and lists of them, as one by dotted names (``steps.0.bits``).

    Other lists as JSON text, since cells must be scalars.
    """
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, list) and inner and all(isinstance(one, Mapping) for one in inner):
            inner = {str(index): one for index, one in enumerate(inner)}
        if isinstance(inner, Mapping):
            flat |= _flat(inner, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(inner) if isinstance(inner, list) else inner
    return flat
