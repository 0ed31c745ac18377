"""The results store: one JSON file per measured point, written whole or not at all.

A record is a plain dictionary that stands alone: what was run (`config`), what came out of it, and
on which machine and code. `save` writes one, `load` and `load_layers` read a folder of them into
pandas.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.atomic import replacing, temporary_in
from lowrank.fields import parse
from lowrank.record_checks import SCHEMA as SCHEMA
from lowrank.record_checks import check_plain, check_record

if TYPE_CHECKING:
    import pandas as pd

# Parts of a config that say where and how a point is run, and not which point it is.
VOLATILE = frozenset({"force", "hydra", "results", "sweep", "tracker"})
# Settings by which repetitions of one measurement differ.
SEEDS = ("seed", "calibration_seed")
LABELS = ("key", "task", "model", "method", "family", "level", "recovery", "seed")
MEASURED_PARTS = ("environment", "timings", "calibration", "protocol")


def key(config: Mapping[str, Any]) -> str:
    """The name of the point that a resolved config describes: 16 hexadecimal digits.

    The order of the fields and whether a whole number is written 2 or 2.0 change nothing, and nor
    do the top-level fields that only say where and how it is run (`VOLATILE`).

    Raises:
        ValueError: a value that JSON cannot hold, named by its path.
    """
    stable = {name: value for name, value in config.items() if name not in VOLATILE}
    check_plain(stable, "config")
    text = json.dumps(_canonical(stable), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def point(config: Mapping[str, Any]) -> str:
    """The key of a config without its seeds: the same for all repetitions of one measurement."""
    return key(_without_seeds(config))


def exists(key: str, folder: str | Path) -> bool:
    """Whether the record called `key` is in `folder`.

    Raises:
        ValueError: there is a file of its name that is not that record.
    """
    path = Path(folder) / f"{key}.json"
    try:
        found = _read(path)
        if not isinstance(found, Mapping) or found.get("key") != key:
            raise ValueError("it does not hold its key")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, IsADirectoryError) as error:
        raise _broken(path, error) from error
    return True


def save(record: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a record to ``folder/<key>.json``; a crash at any moment leaves no part of it there.

    Raises:
        ValueError: a field is missing, is NaN or infinite, or is nothing that JSON can hold (the
            text names it by its path); or `key` is not the key of `config`.
        OSError: the file cannot be written.
    """
    check_record(record)
    if record["key"] != key(record["config"]):
        raise ValueError(
            f"key={record['key']!r} is not the key of this record's config, which is "
            f"{key(record['config'])!r}: under another name it would not be found again"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['key']}.json"
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")
    return path


def check_writable(folder: str | Path) -> None:
    """Make `folder` if it is not there, and prove that files can be written into it.

    Raises:
        ValueError: they cannot; the text says why.
    """
    folder = Path(folder)
    probe = temporary_in(folder, "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"results cannot be written to {folder}: {error.strerror or error}. Name a folder that "
            "you may write to."
        ) from error


def load(folder: str | Path, pattern: str = "**/*.json") -> pd.DataFrame:
    """The records below `folder`, one row each, in the order of their paths.

    Columns: the labels of the record, `norm` among them; ``dense_recovery``, the recovery that the
    dense model was given too ("none" where it is the aim, and so stays as it is); `tuned`, whether
    gradient steps on data were taken after the compression; `point`, alike for the repetitions of
    one measurement with other seeds; the measures of the compressed model under their own names
    and those of the dense model after ``dense_`` (``dense_before_recovery_``); the ratios, and
    ``dense_layers_bits_per_weight`` to its ``layers_bits_per_weight``; per measured batch size n
    ``latency_b{n}_s``, ``dense_latency_b{n}_s`` (seconds, with ``_iqr_s``), ``speedup_b{n}`` (with
    ``_low``, ``_high``) and ``latency_b{n}_threads``, ``_device``, ``_dtype``;
    ``compressed_layers`` and ``skipped_layers`` (counts); ``environment.*``, ``timings.*``,
    ``calibration.*``, and the config by dotted names, such as ``decomposer.rank``. A value that a
    record lacks is NaN; the norm of one that is older than the norms is "identity".

    Args:
        folder: where to look.
        pattern: which files in it; the default looks into folders within it too.

    Raises:
        ValueError: there is no record, or a file is not one; the text names it.
    """
    import pandas as pd

    return pd.DataFrame([_row(path, record) for path, record in _records(folder, pattern)])


def load_layers(folder: str | Path, pattern: str = "**/*.json") -> pd.DataFrame:
    """The compressed layers of the records below `folder`, one row per record and layer.

    Columns: the labels and `point` of the record and its ``compression_ratio`` (whole model);
    ``position``, the layer's place in the report from 0; then the layer's own report, with its
    shape as ``out`` and ``in`` and the names it is tied to joined by commas; `norm` is its own.

    Raises:
        ValueError: as `load`.
    """
    import pandas as pd

    rows = []
    for _, record in _records(folder, pattern):
        labels = _labels(record)
        labels["compression_ratio"] = record["ratios"]["compression_ratio"]
        for position, layer in enumerate(record["layers"]):
            out, into = layer["shape"]
            own = {name: value for name, value in layer.items() if name != "shape"}
            own["tied_to"] = ", ".join(layer["tied_to"])
            rows.append({**labels, "position": position, **own, "out": out, "in": into})
    return pd.DataFrame(rows)


def _records(folder: str | Path, pattern: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} to read records from")
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not paths:
        raise ValueError(f"there is no record ({pattern}) in {folder}; run a sweep into it first")
    for path in paths:
        try:
            record = _read(path)
            check_record(record)
        except ValueError as error:
            raise _broken(path, error) from error
        yield path, record


def _read(path: Path) -> Any:
    """The JSON in a file; NaN is left to the checks, which name its field."""
    return parse(path.read_bytes(), "the text", numbers=False)


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is not a whole record: {error}. Move it away, and run its point again."
    )


def _labels(record: Mapping[str, Any]) -> dict[str, Any]:
    derived = {
        # Records without these are older: without a norm, or of a recovery that both models had.
        "norm": record.get("norm", "identity"),
        "dense_recovery": record.get("dense_recovery", record["recovery"]),
        "tuned": record.get("tuned", "losses" in record.get("recovered", {})),
        "point": point(record["config"]),
    }
    return {name: record[name] for name in LABELS} | derived


def _row(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    row = _labels(record) | {"path": str(path)}
    row |= record["compressed"] | record["ratios"]
    if "layers_bits_per_weight" in row:
        bits, times = row["layers_bits_per_weight"], row["layers_compression_ratio"]
        row["dense_layers_bits_per_weight"] = bits * times
    for name in ("dense", "dense_before_recovery"):
        row |= {f"{name}_{measure}": value for measure, value in record.get(name, {}).items()}
    for latency in record["latency"]:
        row |= _latency(latency)
    row["compressed_layers"] = len(record["layers"])
    row["skipped_layers"] = len(record["skipped"])
    for name in MEASURED_PARTS:
        row |= _flat(record.get(name) or {}, f"{name}.")
    for name, value in record["config"].items():
        nested = isinstance(value, Mapping)
        row |= _flat(value, f"{name}.") if nested else _flat({name: value}, "config.")
    return row


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


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _canonical(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _without_seeds(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {name: _without_seeds(value) for name, value in config.items() if name not in SEEDS}
    if isinstance(config, list | tuple):
        return [_without_seeds(value) for value in config]
    return config
