"""`calibrate_checkpoint`, which keeps the statistics of a folder of `transformers` of any size."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from lowrank.calibration import CalibratedNorms, Calibration, Statistics, at_hand, norm_named
from lowrank.calibration.collect import UNREACHED
from lowrank.calibration.sequential import calibrate_in_sequence
from lowrank.calibration.statistics_folder import SUFFIX, StatisticsFolder
from lowrank.compression.compress import Where, as_select
from lowrank.export.streamed.request import data_for
from lowrank.export.streamed.resident import Residents
from lowrank.export.streamed.sequence import OUTPUTS
from lowrank.export.streamed.source import CheckpointSource
from lowrank.export.streamed.work import selected_in
from lowrank.files.atomic import check_empty, clean
from lowrank.files.digest import Digest
from lowrank.files.paths import as_path
from lowrank.model.copying import copied


@torch.inference_mode(False)
def calibrate_checkpoint(
    source: str | Path,
    target: str | Path,
    data: Any,
    where: Where = None,
    norm: CalibratedNorms | str = "full",
    *,
    dtype: str | None = None,
) -> Calibration:
    """Write the statistics of a model of `transformers` on some data into a folder, with one block
    of the model in memory at a time.

    They are those of `CalibratedNorms.calibrate` in memory, to the bit, in a file for each block.
    `compress_checkpoint` takes them in place of data, for any method in such norms and any damping;
    so does `compress`. Of full statistics a weight of ``in`` inputs has 8 · in² bytes; query, key
    and value share theirs. The same call goes on where one was killed.

    Args:
        source, dtype: as `compress_checkpoint` takes them.
        target: made; an empty folder may be there, or one that the same call has begun.
        data: a task, or batches.
        where: the weights; all if not given.
        norm: the norms that the statistics are for, without Fisher information.

    Returns:
        The statistics, of which one block is in memory at a time; `Calibration.load` gives them
        again.

    Raises:
        ValueError: as `compress_checkpoint`; or a target with statistics of another source.
        OSError: a file cannot be written; what is done stays.
    """
    folder, place = as_path(source, "source"), as_path(target, "target")
    norms = norm_named(norm) if isinstance(norm, str) else norm
    given = data_for(norms, at_hand(data))
    assert isinstance(norms, CalibratedNorms)
    norms.check_saved()
    if isinstance(given, Calibration):
        raise ValueError("data are statistics already: give the data themselves")
    checkpoint = CheckpointSource(folder, dtype)
    sites = selected_in(checkpoint, as_select(where)).sites
    uses = [use.name for site in sites for use in site.uses]
    origin = norms.source(checkpoint.fingerprint) | {"data": given.fingerprint()}
    names = _begun(place, origin)
    if names.issuperset(uses):
        shutil.rmtree(place / OUTPUTS, ignore_errors=True)
        return Calibration.load(place)
    copy = copied(checkpoint.model, [*checkpoint.model.parameters()]).model
    given.check(copy)
    # A block whose outputs are there is passed over: of other weights it has no statistics yet.
    outputs = place / OUTPUTS / Digest({"names": uses}).hex()
    outputs.mkdir(parents=True, exist_ok=True)
    full = norms.moment == "full"

    def keep(found: dict[str, Statistics]) -> None:
        number = len(list(place.glob(f"*{SUFFIX}"))) + 1
        new = {name: entry for name, entry in found.items() if name not in names}
        if new:
            Calibration(new, origin).save(place / f"statistics-{number:05}{SUFFIX}")
            names.update(new)

    with Residents(copy, checkpoint).coming():
        for _, statistics in calibrate_in_sequence(copy, sites, given, full, outputs):
            keep(statistics)
            del statistics  # Before those of the next block are collected.
    keep({name: Statistics(None, None, 0, (UNREACHED,)) for name in uses})
    shutil.rmtree(place / OUTPUTS, ignore_errors=True)
    return Calibration.load(place)


def _begun(place: Path, origin: dict[str, Any]) -> set[str]:
    """Make the folder, or see that what is in it is the beginning of the same; the names of the
    modules whose statistics are there."""
    found = StatisticsFolder(place)
    if found.source is None:
        if not (place / OUTPUTS).is_dir():
            check_empty(place)
        place.mkdir(parents=True, exist_ok=True)
    elif found.source != origin:
        apart = [name for name, value in origin.items() if found.source.get(name) != value]
        raise ValueError(
            f"{place} holds statistics that differ in {', '.join(apart)}: name another folder"
        )
    clean(place)  # What a killed process left.
    return set(found)
