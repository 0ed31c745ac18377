"""Compression block by block, each in the norm of its inputs behind those before it.

These are the compressed ones in sequential calibration, and the dense ones in one shot, for which
the outputs of a block are then all that is kept of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

from lowrank.calibration import CalibratedNorms, Job
from lowrank.export.streamed.parts import CheckpointPart
from lowrank.export.streamed.resident import Residents
from lowrank.export.streamed.work import CheckpointWork
from lowrank.factorizations.operations import KernelView
from lowrank.model.copying import copied
from lowrank.model.sites import Places, stand_in

# In the target, until all is done.
OUTPUTS = "lowrank.outputs"


def made_in_sequence(
    work: CheckpointWork, todo: Sequence[CheckpointPart]
) -> Iterator[CheckpointPart]:
    """The parts, each when its file is written; of a block that is not finished all are made anew.

    Args:
        todo: those without a file.

    Raises:
        ValueError: the data do not fit the model, or reach no weight.
    """
    left = {part.number for part in todo}
    parts = {part.site.name: part for part in work.parts if part.site is not None}
    fitting = work.fitting()
    for part in todo:
        # Those that no level fits are copied.
        if part.site is None or part.site.name not in fitting:
            work.make(part)
            left.discard(part.number)
            yield part
    folder = work.request.target / OUTPUTS
    if left:
        folder.mkdir(exist_ok=True)
        for part in _calibrated(work, fitting, parts):
            if part.number in left:
                left.discard(part.number)
                yield part
    shutil.rmtree(folder, ignore_errors=True)


def _calibrated(
    work: CheckpointWork, fitting: set[str], parts: dict[str, CheckpointPart]
) -> Iterator[CheckpointPart]:
    problem = work.walk.problem
    sites = [site for site in problem.sites if site.name in fitting]
    copies = copied(problem.model, [*problem.model.parameters()])
    places = Places(copies.model)
    chosen = work.walk.chosen.decomposers
    views: dict[str, KernelView] = {site.name: chosen[site.name].kernel_view() for site in sites}
    job = Job(problem.model, copies.model, sites, views, problem.data)
    job = replace(job, folder=work.request.target / OUTPUTS)
    norms = cast(CalibratedNorms, problem.norm)
    in_order = replace(norms, mode="sequential")
    with Residents(copies.model, work.source).coming():
        for site, norm in in_order.over(job):
            form = work.make(parts[site.name], norm, job.notes[site.name])
            del norm  # Its memory is that of the statistics, and the next ones are collected now.
            for use in site.uses if norms.mode == "sequential" else ():
                if form is not None:
                    old = copies.of[id(use.module)]
                    places.replace(old, stand_in(use, old, form, views[site.name]))
            yield parts[site.name]
    for name, why in job.unreached.items():
        # Those of finished blocks were not asked for again.
        if work.done(parts[name]) is None:
            work.leave(parts[name], why)
            yield parts[name]
