"""The work on the weights of a checkpoint in norms of data, whatever gives these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

from lowrank.calibration import CalibratedNorms, Job
from lowrank.compression.crew import Crew
from lowrank.export.streamed.parts import CheckpointPart
from lowrank.export.streamed.work import CheckpointWork
from lowrank.factorizations.operations import KernelView
from lowrank.model.sites import Site
from lowrank.norms import Norm


class Calibrated:
    """The weights that some level fits.

    Args:
        todo: the parts without a file, all of them weights that fit.
        workers: how many weights are decomposed at the same time; see `Crew`.

    Attributes:
        sites: all of them, those with a file too.
        parts: by the name of the weight.
        views: the matrix view of each kernel, by the name of the weight.
    """

    def __init__(
        self,
        work: CheckpointWork,
        fitting: set[str],
        todo: Sequence[CheckpointPart],
        workers: int,
    ) -> None:
        self.work, self.todo, self.workers = work, todo, workers
        self.norms = cast(CalibratedNorms, work.request.norm)
        self.sites = [site for site in work.walk.problem.sites if site.name in fitting]
        self.parts = {part.site.name: part for part in work.parts if part.site is not None}
        chosen = work.walk.chosen.decomposers
        self.views: dict[str, KernelView] = {
            site.name: chosen[site.name].kernel_view() for site in self.sites
        }

    def made(
        self,
        job: Job,
        norms: Iterator[tuple[Site, Norm]],
        crew: Crew[Site],
        made: list[CheckpointPart],
    ) -> Iterator[CheckpointPart]:
        """The parts, each when its file is written, also those of weights that no data reach.

        Args:
            norms: of the job.
            made: to which the crew adds each part.
        """
        for site, norm in norms:
            part, notes = self.parts[site.name], job.notes[site.name]
            crew.begin(site, partial(self.work.make, part, norm, notes))
            del norm  # Its memory is that of the statistics, and the next ones are collected now.
            while made:
                yield made.pop(0)
        crew.settle()
        yield from made
        for name, why in job.unreached.items():
            # Those of finished blocks were not asked for again.
            if self.work.done(self.parts[name]) is None:
                self.work.leave(self.parts[name], why)
                yield self.parts[name]
