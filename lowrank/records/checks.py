"""Validation of records: their fields and the types of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lowrank.metrics.metric import LARGEST, read_metrics
from lowrank.records.columns import COSTS
from lowrank.records.companions import OUTCOMES, outcomes_name

SCHEMA = 3

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "": (
        *("schema", "key", "config", "task", "model", "method", "family", "level", "norm"),
        *(
            "recovery",
            "dense_recovery",
            "tuned",
            "allocates",
            "seed",
            "metrics",
            "dense",
            "compressed",
        ),
        *("ratios", "latency", "layers", "skipped", "environment", "timings"),
        *("validation", "standard_errors"),
    ),
    "dense": ("params", "bytes"),
    "compressed": ("params", "bytes"),
    "ratios": ("compression_ratio", "param_ratio"),
    "standard_errors": ("dense", "compressed", "change"),
}
# Fields that become part of tables, figures and file names.
NAMES = ("key", "task", "model", "method", "family", "norm", "recovery", "dense_recovery")
LONGEST_NAME = 200
DEEPEST = 50
MAPPINGS = (
    *("config", "dense", "compressed", "ratios", "environment", "timings"),
    *("validation", "standard_errors"),
)
PERHAPS = ("dense_before_recovery", "dense_moved", "dense_whole_test", "recovered")
PERHAPS_NULL = ("calibration", "allocation", "protocol", "sharing")
QUALITIES = (
    *("dense", "compressed", "dense_before_recovery", "dense_moved", "dense_whole_test"),
    "validation",
)
NUMBERS = (*QUALITIES, "ratios")
# The number fields of each latency, and of each layer.
TIMES = ("dense_s", "compressed_s", "dense_iqr_s", "compressed_iqr_s")
SPEEDUPS = ("speedup", "speedup_low", "speedup_high")
CONDITIONS = ("device", "dtype")
# A pandas column of integers has 64 bits; larger ones would make it a column of objects.
LARGEST_WHOLE = 2**63 - 1
LAYER_NUMBERS = ("dense_bytes", "bytes", "params", "bits_per_weight")
# Null where they are not known: after training, in a norm of data.
LAYER_ERRORS = ("relative_error", "norm_error")


def check_record(record: Any) -> None:
    """Raise ValueError unless it has the fields of a record, each of its own kind.

    Names must be printable, since they end in tables, figures, file names and on terminals;
    measures must be numbers. What JSON cannot hold is refused anywhere.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is a mapping of fields, not {_kind(record)}")
    check_schema(record)
    _check_present(record, "", REQUIRED[""])
    check_plain(record, "")
    given = [name for name in PERHAPS_NULL if record.get(name) is not None]
    for name in (*MAPPINGS, *filter(record.__contains__, PERHAPS), *given):
        _check_mapping(record[name], name)
    for part, names in REQUIRED.items():
        _check_present(record[part] if part else record, part, names)
    for name in NAMES:
        _check_name(record[name], name)
    if record.get("dense_dtype", "") != "":  # A model may have no numbers with a fraction.
        _check_name(record["dense_dtype"], "dense_dtype")
    _check_level(record)
    for part in filter(record.__contains__, NUMBERS):
        _check_numbers(record[part], part)
    _check_metrics(record)
    _check_errors(record)
    if OUTCOMES.field in record and OUTCOMES.named(record) is None:
        raise ValueError(
            f"{OUTCOMES.field}={_short(record[OUTCOMES.field])} must be "
            f"{outcomes_name(record['key'])!r}, beside the record"
        )
    if not (record["ratios"]["compression_ratio"] or 0) > 0:
        raise ValueError("ratios.compression_ratio must be above 0, for a model takes bytes")
    _check_latency(record["latency"])
    _check_layers(record["layers"])
    for name in filter(record.__contains__, ("skipped", "left")):
        if not _is_list(record[name]):
            raise ValueError(f"{name} must be a list of layers, not {_kind(record[name])}")


def check_schema(record: Mapping[str, Any]) -> None:
    """Raise ValueError unless a record is of the form that is written here."""
    _check_present(record, "", ("schema",))
    if record["schema"] != SCHEMA or type(record["schema"]) is not int:
        raise ValueError(
            f"schema={_short(record['schema'])} is not the known one, {SCHEMA}: another version of "
            "lowrank measured it, and it has to be measured again"
        )


def check_plain(value: Any, path: str, depth: int = 0) -> None:
    """Raise ValueError, with the path of the field, unless JSON holds `value` as it is."""
    if depth > DEEPEST:
        raise ValueError(f"{path[:60]}… is nested more than {DEEPEST} times")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{path} is {value}: a failed measurement is a failed run, never a number on record"
        )
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"the field {name!r} in {path or 'the record'} must be a string")
            check_plain(inner, f"{path}.{name}" if path else name, depth + 1)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            check_plain(inner, f"{path}[{index}]", depth + 1)
    elif value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError(
            f"{path} is a {type(value).__name__}, which JSON cannot hold: give a number, a text, "
            "true, false, null, or lists and mappings of them"
        )


def _check_present(fields: Any, part: str, names: Sequence[str]) -> None:
    missing = [f"{part}.{name}" if part else name for name in names if name not in fields]
    if missing:
        raise ValueError(f"the record lacks {', '.join(missing)}")


def _check_level(record: Mapping[str, Any]) -> None:
    level, seed = record["level"], record["seed"]
    if level is not None and not is_number(level):
        raise ValueError(f"level={_short(level)} must be a number, by which levels are ordered")
    if not _is_whole(seed):
        raise ValueError(f"seed={_short(seed)} must be a whole number")
    if not isinstance(record["tuned"], bool):
        raise ValueError(f"tuned={_short(record['tuned'])} must be true or false")


def _check_numbers(values: Mapping[str, Any], part: str) -> None:
    for name, value in values.items():
        _check_name(name, f"the name of a measure in {part}")
        if value is not None and not is_number(value):
            raise ValueError(f"{part}.{name}={_short(value)} must be a number or null")
        if part == "ratios" and value is not None and value < 0:
            raise ValueError(f"{part}.{name}={_short(value)} must be a number from 0")


def _check_metrics(record: Mapping[str, Any]) -> None:
    """Raise ValueError unless the record describes each of its measures."""
    known = [metric.name for metric in read_metrics(record["metrics"], "metrics")]
    costs = [name for name in known if name in COSTS]
    if costs:
        raise ValueError(f"metrics names {', '.join(costs)}, which is what a model costs")
    for part in filter(record.__contains__, QUALITIES):
        unknown = [name for name in record[part] if name not in (*known, *COSTS)]
        if unknown:
            raise ValueError(
                f"{part}.{_short(unknown[0])} is neither a cost nor in metrics, so nobody could "
                f"say which way is better; there are {', '.join(known)}"
            )


def _check_errors(record: Mapping[str, Any]) -> None:
    """Raise ValueError unless each standard error is a number of a metric that is an average."""
    known = [one.name for one in read_metrics(record["metrics"], "metrics") if one.average]
    for part, errors in record["standard_errors"].items():
        _check_mapping(errors, f"standard_errors.{part}")
        for name, value in errors.items():
            if name not in known:
                raise ValueError(
                    f"standard_errors.{part}.{_short(name)} is of no metric that is an average"
                )
            if not (is_number(value) and value >= 0):
                raise ValueError(
                    f"standard_errors.{part}.{name}={_short(value)} must be a number from 0"
                )


def _check_latency(entries: Any) -> None:
    _check_list(entries, "latency")
    sizes = []
    for index, entry in enumerate(entries):
        place = f"latency[{index}]"
        _check_mapping(entry, place)
        _check_present(entry, place, ("batch_size", *TIMES[:2], *SPEEDUPS[:1], "threads"))
        size = entry["batch_size"]
        if not _is_whole(size, least=1):
            raise ValueError(f"{place}.batch_size={_short(size)} must be a whole number from 1")
        sizes.append(size)
        for name in filter(entry.__contains__, (*TIMES, *SPEEDUPS)):
            value, may_lack = entry[name], name in SPEEDUPS
            if not (may_lack and value is None) and not (is_number(value) and value >= 0):
                raise ValueError(f"{place}.{name}={_short(value)} must be a number from 0")
        for name in CONDITIONS:
            _check_name(entry.get(name), f"{place}.{name}")
        nested = [name for name, value in entry.items() if isinstance(value, Mapping | list)]
        if nested:
            raise ValueError(f"{place}.{_short(nested[0])} must be one value")
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"latency has a batch size more than once: {sizes}")


def _check_layers(layers: Any) -> None:
    _check_list(layers, "layers")
    if not layers:
        raise ValueError("layers is empty: a record is of a model with a compressed layer")
    for index, layer in enumerate(layers):
        place = f"layers[{index}]"
        _check_mapping(layer, place)
        _check_present(layer, place, ("name", "shape", "tied_to", *LAYER_NUMBERS, LAYER_ERRORS[0]))
        _check_name(layer["name"], f"{place}.name")
        shape = layer["shape"]
        sides = shape if _is_list(shape) else ()
        if len(sides) != 2 or not all(_is_whole(side, least=1) for side in sides):
            raise ValueError(f"{place}.shape={_short(shape)} must be two whole numbers from 1")
        if not _is_list(layer["tied_to"]) or any(type(n) is not str for n in layer["tied_to"]):
            raise ValueError(f"{place}.tied_to={_short(layer['tied_to'])} must be a list of names")
        if "norm" in layer:
            _check_name(layer["norm"], f"{place}.norm")
        known = [name for name in LAYER_ERRORS if layer.get(name) is not None]
        for name in (*LAYER_NUMBERS, *known):
            if not is_number(layer[name]) or layer[name] < 0:
                raise ValueError(f"{place}.{name}={_short(layer[name])} must be a number from 0")
        if not layer["dense_bytes"]:
            raise ValueError(f"{place}.dense_bytes=0: a layer without bytes is none")


def _check_mapping(value: Any, name: str) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping of fields, not {_kind(value)}")


def _check_list(value: Any, name: str) -> None:
    if not _is_list(value):
        raise ValueError(f"{name} must be a list, not {_kind(value)}")


def _check_name(value: Any, what: str) -> None:
    """Raise ValueError unless a name is one line of printable text."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME or not value.isprintable():
        raise ValueError(
            f"{what}={_short(value)} must be a printable text of 1 to {LONGEST_NAME} letters"
        )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def is_number(value: Any) -> bool:
    """Whether a record holds it as a number: a whole one of 64 bits, or one below `LARGEST`."""
    if isinstance(value, float):
        return abs(value) < LARGEST
    return _is_whole(value)


def _is_whole(value: Any, least: int = -LARGEST_WHOLE) -> bool:
    return type(value) is int and least <= value <= LARGEST_WHOLE


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
