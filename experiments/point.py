"""One point of a sweep: a task's model compressed by one method and measured against itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.composer import resolve
from experiments.parts import Settings, export_format, make_parts, reason, say_where
from experiments.plan import has_all
from experiments.progress import Outcome, Progress
from experiments.trackers import log_point
from lowrank.compression.kernel_cache import kernel_cache
from lowrank.point import measure_point
from lowrank.records import best, models, store
from lowrank.records.claims import Claims


def measured(settings: Settings) -> dict[str, Any]:
    """The record of a point; see `lowrank.records.store`."""
    parts, keep = make_parts(settings), settings["save"]["models"]
    saving: dict[str, Any] = {}
    if keep != "none":
        saving = {"save": settings["results"], "keep": keep, "export": export_format(settings)}
    with kernel_cache(**settings["kernel_cache"]):
        return measure_point(
            parts.task,
            parts.method,
            norm=parts.norm,
            where=parts.where,
            recovery=parts.recovery,
            measure=parts.measure,
            **{name: settings[name] for name in ("values", "seed", "threads")},
            config=settings,
            checkpoint=settings["results"],
            **saving,
        )


def run_point(config: DictConfig, progress: Progress) -> Outcome:
    """Measure the point that `config` describes, and save its record.

    Returns:
        What became of it: a value, so that no process stops over an error.
    """
    settings = resolve(config)
    folder = Path(settings["results"])
    overrides, key = " ".join(HydraConfig.get().overrides.task), store.key(settings)
    try:
        with Claims(folder).taking(key) as is_ours:
            # Checked with the claim held, so that no other process can begin in between.
            if was_measured(settings, progress.place.since(str(folder))):
                progress.present(overrides)
                return "present"
            if not is_ours:
                return "claimed"
            try:
                record = measured(settings)
                store.save(record, folder)
            except BaseException:
                models.clear_point(key, folder)
                raise
    except Exception as error:
        progress.failed(overrides, key, reason(error))
        say_where(error)
        return "failed"
    progress.finished(record)
    log_point(settings, record)
    return "measured"


def was_measured(settings: Settings, since: float) -> bool:
    """Whether the point has its record; if it is to be measured again, one made after `since`."""
    path = Path(settings["results"]) / f"{store.key(settings)}.json"
    if settings["force"] and not (path.exists() and path.stat().st_mtime > since):
        return False
    return has_all(settings, path.stem, best.lacking)
