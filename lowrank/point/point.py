"""One measured point: a task's model compressed by one method and compared with the dense model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from lowrank.allocation import Allocation, Uniform
from lowrank.allocation.values import Values
from lowrank.calibration import CalibratedNorms, IdentityNorms, NormProvider
from lowrank.compression.compress import (
    Method,
    Where,
    approximated,
    as_allocation,
    as_norms,
    as_select,
)
from lowrank.export.formats.format import Format
from lowrank.files.paths import as_path
from lowrank.measure.environment import environment
from lowrank.numerics.checks import check_integer, check_is, check_one_of
from lowrank.point.computing import (
    computing,
    resuming_in,
    timing,
    without_step_times,
)
from lowrank.point.config import described
from lowrank.point.dense import (
    BASELINE,
    dense_baseline,
    dense_macs,
    dense_model,
    dense_validation,
    question,
)
from lowrank.point.examples import paired
from lowrank.point.keeping import kept_beside
from lowrank.point.measure import compare
from lowrank.point.measure import measure as measures_of
from lowrank.point.quality import evaluate
from lowrank.point.settings import MeasureSettings
from lowrank.records import best, store
from lowrank.records.checks import is_number
from lowrank.records.companions import OUTCOMES, outcomes_name
from lowrank.records.record import Record
from lowrank.recovery import NoRecovery, Recovery
from lowrank.recovery.task_parts import fingerprints, sharing
from lowrank.tasks import Task
from lowrank.tasks.task import SplitName

# The first seed that is too large for numpy; other generators take larger ones.
SEED_LIMIT = 2**32
# The fields of a config with the names of its parts in tables.
LABELS = ("method_name", "norm_name", "recovery_name")


def measure_point(
    task: Task,
    method: Method,
    *,
    norm: NormProvider | str | None = None,
    where: Where = None,
    recovery: Recovery | None = None,
    measure: MeasureSettings | None = None,
    values: str | None = None,
    seed: int = 0,
    threads: int | None = None,
    config: Mapping[str, Any] | None = None,
    save: str | Path | None = None,
    keep: best.Keep = "all",
    export: Format | None = None,
    checkpoint: str | Path | None = None,
) -> Record:
    """The record of one point: compress a task's model and measure it beside the dense one.

    The dense model is made and measured once for consecutive points of one task. The record is a
    dictionary; its attribute `outcomes` has what both models did on each example of the test split.
    `lowrank.records.store.save` writes both into a folder, from which reports read them.

    Args:
        method, norm, where, values: see `compress`; the norm is the identity if not given. Norms
            that need data are calibrated on the task.
        recovery: the recovery after compression; none if not given.
        measure: the settings of the measures; the defaults of `MeasureSettings` if not given.
        seed: the seed of all generators, from 0 to 2^32 - 1. A task and a method have their own
            seeds.
        threads: CPU threads; torch's default if not given.
        config: the config of the record, as a sweep composes it; made from the objects if not
            given. Its labels are the names in tables.
        save: the folder into which the measured compressed model is saved; the record names the
            file ("model_file"), and `lowrank.load` reads it.
        keep: the models that stay there: ``all`` or ``best``. For ``best``
            `lowrank.records.store.save` keeps the model of the competing point that is best on the
            validation split only; see `lowrank.records.best`.
        export: the format of another tool in which the model is written beside that file too
            ("exported_folder"). Layers whose form it does not hold are multiplied out, and the
            record says how many.
        checkpoint: the folder in which trainings keep their states while they run, once a minute,
            in ``<key>.training``. The same call goes on from there after its process was killed,
            and gives the same record. `lowrank.records.store.save` into the same folder removes it.

    Raises:
        MissingExtra: `threads` without threadpoolctl; it is in the extra ``sweep``.
        ValueError: the errors of `compress`, `Recovery.recover` and `lowrank.point.measure`; an
            argument of another kind; or, without `config`, an object that cannot be written as a
            config.
    """
    measured_how, recovery = measure or MeasureSettings(), recovery or NoRecovery()
    check_is("task", task, Task, "lowrank.tasks.ImageClassification(...)")
    check_is("recovery", recovery, Recovery, "lowrank.recovery.Tune()")
    check_is("measure", measured_how, MeasureSettings, "MeasureSettings()")
    check_integer("seed", seed, least=0)
    if seed >= SEED_LIMIT:
        raise ValueError(f"seed={seed} must be a whole number from 0 to {SEED_LIMIT - 1}")
    measured_how.check_data(task)
    Values(values)
    check_one_of("keep", keep, get_args(best.Keep))
    if keep != "all" and save is None:
        raise ValueError(
            f"keep={keep!r} has no effect without a folder: give save=…, or leave it out"
        )
    if export is not None:
        check_is("export", export, Format, "lowrank.export.formats.format_named('dense')")
        if save is None:
            raise ValueError("export has no effect without a folder: give save=…, or leave it out")
    if threads is not None:
        check_integer("threads", threads, least=1)
    allocation, select = as_allocation(method), as_select(where)
    chosen = allocation if isinstance(method, Mapping) else method
    check_labels(allocation, type(chosen).__name__)
    norms = as_norms(norm, allocation, None)
    if config is None:
        parts = {"method": chosen, "norm": norms, "where": select, "recovery": recovery}
        parts |= {"task": task, "measure": measured_how, "values": values}
        parts |= {"seed": seed, "threads": threads}
        config = {name: described(part, name) for name, part in parts.items()}
        config |= _names(type(chosen), norms, recovery)
    lacking = [name for name in (*BASELINE, *LABELS) if name not in config]
    if lacking:
        raise ValueError(f"config lacks {', '.join(lacking)}: leave it out, or give all of a sweep")
    if "seed" not in config["task"]:
        raise ValueError(f"{type(task).__name__} has no field `seed`, as every task must have")
    key, folder = store.key(config), None if save is None else as_path(save, "save")
    checkpoint = None if checkpoint is None else as_path(checkpoint, "checkpoint")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)  # Or it would be found only after all the work.
    needs: dict[str, SplitName | None] = {
        "norm": "calibration" if norms.needs_data else None,
        "allocation": "calibration" if allocation.needs_data else None,
        "recovery": recovery.learns_from,
    }
    timings: dict[str, Any] = {}
    with computing(seed, threads), timing(timings, "total_s"), resuming_in(checkpoint, key):
        about = question(config, task, measured_how, recovery)
        dense, dense_counts = dense_model(about.drawn), dense_macs(about.drawn)
        with timing(timings, "compress_s"):
            data = task if "calibration" in (needs["norm"], needs["allocation"]) else None
            example = task.example()
            compressed = approximated(
                dense, method, select, example, norms, data, values=values, counts_macs=False
            )
        recovery.check_forms(compressed.model)
        # After the compression, so that a hyperparameter that does not fit is reported at once.
        baseline = dense_baseline(about)
        before = fingerprints(compressed.model) if recovery.tunes else {}
        with timing(timings, "recover_s"):
            recovered = recovery.recover_compressed(compressed, task)
        timings |= without_step_times(recovered)
        size = measured_how.of(task).batch_size
        with timing(timings, "validate_s"):
            # Before the test split is evaluated, of which nothing may depend.
            reference = dense_validation(about)
            validated = evaluate(compressed.model, task, "validation", size, reference)
        with timing(timings, "evaluate_s"):
            measured = measures_of(compressed.model, task, measured_how, baseline.measured)
            compressed.add_macs(dense_counts, measured.layer_macs)
            comparison = compare(baseline.measured, measured, compressed, task, measured_how)
        facts = environment(task.device)
    kept = {} if folder is None else kept_beside(compressed.model, folder, key, export)
    kept |= {best.FIELD: best.COMPETES} if keep == "best" else {}
    timings["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    record = {
        "schema": store.SCHEMA,
        "key": key,
        "config": dict(config),
        "task": task.name,
        "model": task.architecture,
        "method": config["method_name"],
        "family": allocation.family,
        "level": allocation.level,
        "allocates": isinstance(allocation, Allocation) and not isinstance(allocation, Uniform),
        "seed": seed,
        "norm": config["norm_name"],
        "recovery": config["recovery_name"],
        "dense_recovery": config["recovery_name"] if recovery.changes_dense else "none",
        "tuned": recovery.tunes,
        **comparison,
        "validation": validated.metrics,
        **baseline.fields,
        "recovered": recovered,
        "sharing": sharing(compressed.model, before) if recovery.tunes else None,
        "layers": [layer.row() for layer in compressed.layers],
        "skipped": compressed.skipped,
        "left": compressed.left,
        "calibration": compressed.calibration,
        "allocation": compressed.allocation,
        "protocol": task.protocol() | {"batch_size": size} | splits_of(task, needs),
        "environment": facts,
        "timings": timings,
        OUTCOMES.field: outcomes_name(key),
        **kept,
    }
    return Record(record, paired(baseline.measured.examples, measured.examples))


def splits_of(task: Task, uses: Mapping[str, SplitName | None]) -> dict[str, Any]:
    """The numbers of examples in the splits, and what was chosen or learnt on which.

    Args:
        uses: by part of the point, the split that it used.
    """
    chosen = {part: split for part, split in uses.items() if split is not None}
    size = len(task.split("calibration"))
    calibration = {"split": "calibration", "examples": size}
    return {
        "calibration": calibration if "calibration" in chosen.values() else None,
        "validation": len(task.split("validation")),
        "test": len(task.split("test")),
        "chosen_on": chosen,
    }


def check_labels(allocation: Allocation, what: str) -> None:
    """Check the level and the family of a method, which place it in tables and figures.

    Raises:
        ValueError: a level that is no number, or a family that is no name.
    """
    level, family = allocation.level, allocation.family
    if level is not None and not is_number(level):
        raise ValueError(
            f"the level of {what} is {level!r}: it must be a number, the place of the point on its "
            "curve, or None"
        )
    if not isinstance(family, str) or not family.strip():
        raise ValueError(f"the family of {what} is {family!r}: it must be a text that is not empty")


def _names(method: type, norm: NormProvider, recovery: Recovery) -> dict[str, str]:
    """The labels of a point without a config: the names of its classes."""
    own = "identity" if isinstance(norm, IdentityNorms) else type(norm).__name__
    return {
        "method_name": method.__name__,
        "norm_name": norm.moment if isinstance(norm, CalibratedNorms) else own,
        "recovery_name": "none" if isinstance(recovery, NoRecovery) else type(recovery).__name__,
    }
