"""The results store: one JSON file per measured point, written whole or not at all.

A record is a self-contained dictionary: the config, the measures, the machine and the version of
the code. `save` writes one, `load` and `load_layers` read a folder of them into pandas.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.files.atomic import prove_writable, temporary_in
from lowrank.files.extras import need
from lowrank.files.paths import as_path
from lowrank.records import best
from lowrank.records.checks import SCHEMA as SCHEMA
from lowrank.records.checks import check_record, check_schema
from lowrank.records.companions import (
    COMPANIONS,
    MODEL,
    OUTCOMES,
    outcomes_name,
    remove,
    training_name,
)
from lowrank.records.files import read, record_in, write
from lowrank.records.keys import SEED_FIELDS as SEED_FIELDS
from lowrank.records.keys import VOLATILE as VOLATILE
from lowrank.records.keys import key as key
from lowrank.records.keys import point as point
from lowrank.records.record import Record
from lowrank.records.rows import MEASURED_PARTS as MEASURED_PARTS
from lowrank.records.rows import labels_of, layer_rows, row

if TYPE_CHECKING:
    import pandas as pd


def exists(key: str, folder: str | Path) -> bool:
    """Whether the record called `key` is in `folder`.

    Raises:
        ValueError: as `find`.
    """
    return find(key, folder) is not None


def find(key: str, folder: str | Path) -> Mapping[str, Any] | None:
    """The record called `key` in `folder`, its measures unchecked; None if it is not there.

    Raises:
        ValueError: there is a file of its name that is not that record, or is one of another
            schema.
    """
    path = as_path(folder, "folder") / f"{key}.json"
    try:
        found = read(path)
        if not isinstance(found, Mapping) or found.get("key") != key:
            raise ValueError("it does not hold its key")
        check_schema(found)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, IsADirectoryError) as error:
        raise _broken(path, error) from error
    return found


def save(record: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a record to ``folder/<key>.json``; a crash at any moment leaves no part of it there.

    The outcomes of a `Record` are written first, to the file that it names, so that no record names
    outcomes that are not there. The files of the record in whose place it comes are removed or
    replaced, and the states of its trainings are removed. A record with "keep" competes: of its
    group only the best keeps its model; see `lowrank.records.best`.

    Raises:
        ValueError: a field is missing, is NaN or infinite, or is nothing that JSON can hold (the
            text names it by its path); `key` is not the key of `config`; or the model or the
            outcomes that it names are not there.
        OSError: a file cannot be written.
    """
    check_record(record)
    if record["key"] != key(record["config"]):
        raise ValueError(
            f"key={record['key']!r} is not the key of this record's config, which is "
            f"{key(record['config'])!r}: under another name it would not be found again"
        )
    folder = as_path(folder, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['key']}.json"
    if MODEL.field in record and not MODEL.is_kept(record, folder):
        raise ValueError(
            f"the record names its model {record[MODEL.field]!r}, which is not in {folder}: save "
            "it into the folder that was `save` of its point"
        )
    if (
        not isinstance(record, Record)
        and OUTCOMES.field in record
        and not OUTCOMES.is_kept(record, folder)
    ):
        raise ValueError(
            f"the record names its outcomes {record[OUTCOMES.field]!r}, which are not in "
            f"{folder}: save what `measure_point` gave, for a copy of it has no outcomes, or leave "
            f"{OUTCOMES.field} out"
        )
    if not best.competes(record):
        _replace(record, path)
        return path
    with best.deciding(folder):
        _replace(record, path)
        best.settle(folder)
    return path


def _replace(record: Mapping[str, Any], path: Path) -> None:
    """Write a record and its outcomes, and remove the files of the one that was there, unless it
    names the same.
    """
    before = record_in(record["key"], path.parent)
    if isinstance(record, Record):
        _write_outcomes(record, path, before)
    write(record, path)
    for kind in COMPANIONS:
        name = kind.named(before)
        if name is not None and name != record.get(kind.field):
            remove(path.parent / name)
    shutil.rmtree(path.parent / training_name(record["key"]), ignore_errors=True)


def _write_outcomes(record: Record, path: Path, before: Mapping[str, Any] | None) -> None:
    from lowrank.records import outcomes

    written = temporary_in(path.parent, path.name)
    try:
        outcomes.write(record.outcomes, written)
        if OUTCOMES.named(before) is not None:
            # Or a crash before the next step would leave a record with the outcomes of another.
            assert before is not None
            kept = {name: value for name, value in before.items() if name != OUTCOMES.field}
            write(kept, path, path.stat())
        os.replace(written, path.parent / outcomes_name(record["key"]))
    finally:
        written.unlink(missing_ok=True)


def check_writable(folder: str | Path) -> None:
    """Make `folder` if it is not there, and prove that files can be written into it.

    Raises:
        ValueError: they cannot; the text says why.
    """
    folder = as_path(folder, "folder")
    try:
        prove_writable(folder)
    except OSError as error:
        raise ValueError(
            f"results cannot be written to {folder}: {error.strerror or error}. Name a folder that "
            "you may write to."
        ) from error


def load(folder: str | Path, pattern: str = "**/*.json") -> pd.DataFrame:
    """The records below `folder`, one row each, in the order of their paths.

    Columns: the labels of the record, `norm` among them; ``dense_recovery``, the recovery that the
    dense model was given too ("none" where it is the aim, and so stays as it is); `tuned`, whether
    gradient steps on data were taken after the compression; `allocates`, whether the method
    chose for each layer by itself; `point`, alike for the repetitions of
    one measurement with other seeds; ``metrics``, what the task measures, as JSON (see
    `lowrank.records.columns.metrics_of`); ``dense_dtype``; the measures of the compressed model
    under their own names and those of the dense model after ``dense_``
    (``dense_before_recovery_``, with ``dense_moved_``, how far the recovery took it from there, and
    ``dense_whole_test_`` where validation is a part of the test data); its quality on the
    validation split after ``validation_``; the standard errors over the examples, ``<metric>_se``,
    ``dense_<metric>_se`` and, paired, ``<metric>_change_se``;
    ``outcomes_file``, the name of the file of `lowrank.records.outcomes`; the ratios, with
    ``coverage``, the share of the parameters that lie in compressed weights, and
    ``dense_layers_bits_per_weight`` to its ``layers_bits_per_weight``; per measured batch size n
    ``latency_b{n}_s``, ``dense_latency_b{n}_s`` (seconds, with ``_iqr_s``), ``speedup_b{n}`` (with
    ``_low``, ``_high``; NaN where the compressed layers run as dense matrices) and
    ``latency_b{n}_threads``, ``_device``, ``_dtype``;
    ``train_loss``, the mean loss over the last epoch of a training that followed the compression;
    ``compressed_layers``, ``skipped_layers`` and ``left_layers`` (counts); ``environment.*``,
    ``timings.*``, ``calibration.*``; ``sharing.*`` where something was trained after the
    compression: the bytes of the base, which other tasks share, with its hash, and the task's own
    (see `lowrank.recovery.task_parts`); and the config by dotted names, such as ``method.rank``. A
    value that a record lacks is NaN.

    Args:
        folder: where to look.
        pattern: which files in it; the default looks into folders within it too.

    Raises:
        ValueError: there is no record, or a file is not one; the text names it.
        MissingExtra: pandas is not installed; it is in the extra ``reports``.
    """
    need("a data frame", "pandas")
    import pandas as pd

    found = _records(folder, pattern)
    return pd.DataFrame([_made(row, path, labels_of(path, one), one) for path, one in found])


def load_layers(folder: str | Path, pattern: str = "**/*.json") -> pd.DataFrame:
    """The compressed layers of the records below `folder`, one row per record and layer.

    Columns: the labels, `point` and `path` of the record and its ``compression_ratio`` (whole
    model); ``position``, the layer's place in the report from 0; then the layer's own report, with
    its shape as ``out`` and ``in`` and the names it is tied to joined by commas; `norm` is its own,
    and ``norm_error`` the error in it.

    Raises:
        ValueError: as `load`.
    """
    need("a data frame", "pandas")
    import pandas as pd

    found = _records(folder, pattern)
    made = [_made(layer_rows, path, labels_of(path, one), one) for path, one in found]
    return pd.DataFrame([layer for layers in made for layer in layers])


def load_both(folder: str | Path, pattern: str = "**/*.json") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The results of `load` and `load_layers`, with each file read once.

    Raises:
        ValueError: as `load`.
    """
    need("a data frame", "pandas")
    import pandas as pd

    records, layers = [], []
    for path, record in _records(folder, pattern):
        labels = labels_of(path, record)
        records.append(_made(row, path, labels, record))
        layers += _made(layer_rows, path, labels, record)
    return pd.DataFrame(records), pd.DataFrame(layers)


def _made(make: Callable[..., Any], path: Path, labels: Any, record: Any) -> Any:
    """The result of `make` for a record; its errors name the file."""
    try:
        return make(labels, record)
    except ValueError as error:
        raise _broken(path, error) from error


def _records(folder: str | Path, pattern: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder = as_path(folder, "folder")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} to read records from")
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not paths:
        raise ValueError(f"there is no record ({pattern}) in {folder}; run a sweep into it first")
    for path in paths:
        try:
            record = read(path)
            check_record(record)
        except ValueError as error:
            raise _broken(path, error) from error
        yield path, record


def _broken(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} is not a whole record: {error}. Move it away, and run its point again."
    )
