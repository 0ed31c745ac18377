"""Compression block by block, each in the norm of its inputs behind those before it.

These are the compressed ones in sequential calibration, and the dense ones in one shot, for which
the outputs of a block are then all that is kept of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace

from lowrank.calibration import Job
from lowrank.compression.crew import Crew
from lowrank.export.streamed.calibrated import Calibrated
from lowrank.export.streamed.parts import CheckpointPart
from lowrank.export.streamed.resident import Residents
from lowrank.factorizations import Factorization
from lowrank.model.copying import copied
from lowrank.model.sites import Places, Site, stand_in

# In the target, until all is done.
OUTPUTS = "lowrank.outputs"


def made_in_sequence(of: Calibrated) -> Iterator[CheckpointPart]:
    """The parts, each when its file is written; of a block that is not finished all are made anew.

    Raises:
        ValueError: the data do not fit the model, or reach no weight.
    """
    folder = of.work.request.target / OUTPUTS
    waiting = {part.number for part in of.todo}
    if waiting:
        folder.mkdir(exist_ok=True)
        for part in _in_sequence(of):
            if part.number in waiting:
                waiting.discard(part.number)
                yield part
    shutil.rmtree(folder, ignore_errors=True)


def _in_sequence(of: Calibrated) -> Iterator[CheckpointPart]:
    problem = of.work.walk.problem
    copies = copied(problem.model, [*problem.model.parameters()])
    places = Places(copies.model)
    made: list[CheckpointPart] = []

    def finish(site: Site, forming: Callable[[], Factorization | None]) -> None:
        form = forming()
        for use in site.uses if of.norms.mode == "sequential" else ():
            if form is not None:
                old = copies.of[id(use.module)]
                places.replace(old, stand_in(use, old, form, of.views[site.name]))
        made.append(of.parts[site.name])

    in_order = replace(of.norms, mode="sequential")
    with Residents(copies.model, of.work.source).coming(), Crew(of.workers, finish) as crew:
        job = Job(problem.model, copies.model, of.sites, of.views, problem.data)
        job = replace(job, settle=crew.settle, folder=of.work.request.target / OUTPUTS)
        yield from of.made(job, in_order.over(job), crew, made)
