"""A Hydra sweeper for unions of grids: each method over its own hyperparameter, all over the seeds.

Hydra loads sweepers only from a package named hydra_plugins; `experiments.sweep` makes this one
known.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.composer import Composer
from experiments.launching import launch_all
from experiments.place import counting
from experiments.plan import SweepJob, check, pending, say_repeats, without_best
from experiments.progress import Outcome, Progress, watching
from experiments.shards import say_whole, shard_of
from experiments.trackers import log_sweep
from lowrank.files import atomic
from lowrank.records import best, models
from lowrank.records.claims import Claims

# Points of one task, seed and recovery follow each other, so that what they share is made once.
OUTERMOST = ("task", "seed", "recovery")

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="union",
    node={"_target_": "hydra_plugins.union_sweeper.UnionSweeper", "params": {}, "union": []},
)


class UnionSweeper(Sweeper):
    """Every combination of `params` (and the command line) with every grid of `union`.

    Each value may be a comma list, as on the command line. The command line replaces what a
    parameter or a grid says of the same key. Tasks, seeds and recoveries (`OUTERMOST`) vary
    slowest, then other parameters, then the grids.

    All configs are composed before the first job starts, so a misspelt option stops the sweep, not
    a point of it. Points whose record exists are passed over without starting a job.

    Args:
        params: override → values, for all points.
        union: grids of override → values; empty means one grid without overrides.
    """

    def __init__(self, params: dict[str, Any], union: list[dict[str, Any]]) -> None:
        self.params = params
        self.union = union
        self.context: HydraContext | None = None
        self.task_function: TaskFunction | None = None
        self.config: DictConfig | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Run the points that have no record yet.

        Raises:
            SystemExit: a point failed, or the settings of one are wrong.
        """
        assert self.context is not None and self.config is not None
        composer = Composer(self.context.config_loader, self.config)
        every = [self.job(job, arguments, composer) for job in self.jobs(arguments)]
        shard = shard_of(every)
        jobs = shard.own(every)
        left = pending(jobs)
        _tidy({job.folder for job in jobs})
        ended = self.launch(left, len(jobs), every, composer) if left else Counter()
        print(
            f"{len(jobs)} points: {len(jobs) - len(left)} had their record, {ended['measured']} "
            f"measured here, {ended['present']} by others, {ended['failed']} failed",
            flush=True,
        )
        if shard.total > 1:
            say_whole(shard, every)
        if ended["failed"]:
            raise SystemExit(1)

    def job(self, overrides: list[str], arguments: list[str], composer: Composer) -> SweepJob:
        """A point with its settings.

        Raises:
            ConfigCompositionException: an override that does not fit; the text says whether the
                experiment's grid and the command line contradict each other in it.
        """
        try:
            return SweepJob(overrides, composer.settings(overrides))
        except ConfigCompositionException as error:
            asked = {text for texts in self.grid(arguments).values() for text in texts}
            ours = [text for text in overrides if text not in asked]
            culprit = next((text for text in ours if f"'{text}'" in str(error)), None)
            if culprit is None:
                raise
            raise ConfigCompositionException(
                f"{error}: the grid of the experiment sets it, and what the command line chose "
                f"({' '.join(arguments)}) does not have it. Leave out the choice or the experiment."
            ) from error

    @property
    def processes(self) -> object:
        """How many points run at once on this machine, as `worker_count` has it: one for all that
        is known of those that a cluster runs."""
        assert self.config is not None
        launcher = self.config.hydra.launcher
        return launcher.get("n_jobs", 1) if launcher.get("address") is None else 1

    def launch(
        self, left: list[SweepJob], total: int, every: list[SweepJob], composer: Composer
    ) -> Counter[Outcome]:
        """Run the jobs that are left through Hydra's launcher; how many ended in which way.

        Args:
            total: jobs, with those that had their record.
            every: the jobs of all shards.
        """
        assert self.config is not None
        check(left, self.processes, every)
        say_repeats(left)
        ended = self._run(left, total, composer)
        # Those that became the best since the best before was measured again and became worse.
        again = [] if ended["failed"] else without_best(left)
        if again:
            ended["failed"] = self._run(again, len(again), composer)["failed"]
        log_sweep(left[0].settings)
        return ended

    def _run(
        self, jobs: list[SweepJob], total: int, composer: Composer, done: int | None = None
    ) -> Counter[Outcome]:
        """Run jobs, of so many in all; how many ended in which way.

        Args:
            done: how many are done; all others if not given.
        """
        done = total - len(jobs) if done is None else done
        with counting(jobs, total, done) as place, watching(place):
            progress = Progress(place)
            launcher = self.launcher(composer, progress)

            def launch(jobs: Sequence[SweepJob]) -> list[Outcome]:
                returns = launcher.launch([job.overrides for job in jobs], initial_job_idx=0)
                return [job.return_value for job in returns]

            return launch_all(jobs, launch, progress)

    def launcher(self, composer: Composer, progress: Progress) -> Launcher:
        assert self.context is not None and self.config is not None
        return Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(composer, self.context.callbacks),  # type: ignore
            task_function=partial(self.task_function, progress=progress),  # type: ignore
            config=self.config,
        )

    def jobs(self, arguments: list[str]) -> Iterator[list[str]]:
        """The overrides of each point, without repetitions, in the order in which they run."""
        given = self.grid(arguments)
        common = self.grid([f"{key}={value}" for key, value in self.params.items()]) | given
        entries = [self.grid([f"{k}={v}" for k, v in grid.items()]) for grid in self.union or [{}]]
        slowest_first = sorted(common, key=lambda key: key.split(".")[0] not in OUTERMOST)
        seen = set()
        for shared in itertools.product(*(common[key] for key in slowest_first)):
            for entry in entries:
                own = [values for key, values in entry.items() if key not in given]
                for rest in itertools.product(*own):
                    job = [*shared, *rest]
                    if tuple(job) not in seen:
                        seen.add(tuple(job))
                        yield job

    def grid(self, arguments: Sequence[str]) -> dict[str, list[str]]:
        """For each key that is overridden, the overrides it takes in turn."""
        assert self.context is not None
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        grid = {}
        for override in parser.parse_overrides(list(arguments)):
            key = override.get_key_element()
            if not override.is_sweep_override():
                grid[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                grid[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise ConfigCompositionException(
                    f"{override.input_line}: an interval has no points to sweep over; list them"
                )
        return grid


def _tidy(folders: set[Path]) -> None:
    """Remove what killed processes left in folders of records."""
    for folder in folders:
        if folder.is_dir() and os.access(folder, os.W_OK):
            atomic.clean(folder)
            best.clear(folder)
            models.clear(folder)
            Claims(folder).clean()
