"""Compression in the norms of statistics that were made before, one weight after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from lowrank.calibration import CalibratedNorms, Calibration, Job
from lowrank.calibration.statistics import check_source
from lowrank.compression.crew import Crew
from lowrank.export.streamed.calibrated import Calibrated
from lowrank.export.streamed.parts import CheckpointPart
from lowrank.export.streamed.work import CheckpointWork
from lowrank.factorizations import Factorization
from lowrank.model.sites import Site


def check_statistics(work: CheckpointWork) -> None:
    """Raise ValueError if given statistics are of another model or kind, or lack a weight.

    All weights of the source are read once.
    """
    data = work.request.data
    if isinstance(data, Calibration):
        names = [use.name for site in work.walk.problem.sites for use in site.uses]
        norms = cast(CalibratedNorms, work.request.norm)
        check_source(data, norms.source(work.source.fingerprint), names)


def made_from_statistics(of: Calibrated) -> Iterator[CheckpointPart]:
    """The parts, each when its file is written.

    Raises:
        ValueError: the statistics are damaged.
    """
    problem, made = of.work.walk.problem, list[CheckpointPart]()
    todo = {part.number for part in of.todo}
    sites = [site for site in of.sites if of.parts[site.name].number in todo]

    def finish(site: Site, forming: Callable[[], Factorization | None]) -> None:
        forming()
        made.append(of.parts[site.name])

    job = Job(problem.model, problem.model, sites, of.views, problem.data)
    with Crew(of.workers, finish) as crew:
        norms = of.norms.over_saved(job, of.work.source.fingerprint)
        yield from of.made(job, norms, crew, made)
