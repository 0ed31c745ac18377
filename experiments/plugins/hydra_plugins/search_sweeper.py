"""A Hydra sweeper that searches: Optuna chooses the points, their records are those of a sweep.

In place of Hydra's Optuna plugin, which needs an old Optuna and keeps a study of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from hydra_plugins.union_sweeper import UnionSweeper

from experiments.composer import Composer
from experiments.plan import SweepJob, check, pending
from experiments.required import require
from experiments.search import Known, SettingSearch, space_of
from experiments.workers import worker_count

ConfigStore.instance().store(
    group="hydra/sweeper",
    name="search",
    node={
        "_target_": "hydra_plugins.search_sweeper.SearchSweeper",
        "params": {},
        "union": [],
        "trials": 20,
        "seed": 0,
    },
)


class SearchSweeper(UnionSweeper):
    """Measures points until so many of a search have their record.

    Intervals and lists of values on the command line are searched; the rest is the same for all.

    Args:
        params: overrides → values, for all points.
        union: must be empty.
        trials: how many points.
        seed: of the sampler.
    """

    def __init__(
        self, params: dict[str, Any], union: list[dict[str, Any]], trials: int, seed: int
    ) -> None:
        super().__init__(params, union)
        self.trials, self.seed = trials, seed

    def sweep(self, arguments: list[str]) -> None:
        """Search, from the records that are there.

        Raises:
            SystemExit: points failed, or the settings are wrong.
        """
        require("a search", "optuna")
        assert self.context is not None and self.config is not None
        if self.union or type(self.trials) is not int or self.trials < 1:
            raise ConfigCompositionException(
                "a search takes hydra.sweeper.trials from 1, and no experiment of grids: give its "
                "settings on the command line"
            )
        composer = Composer(self.context.config_loader, self.config)
        search = self.search(arguments, composer)
        if search.first.settings["shard"] is not None:
            raise ConfigCompositionException(
                "a search has no shards: start the same search on each machine, in one folder"
            )
        pending([search.first])  # Whose settings are all but the same.
        check([search.first], self.processes)
        folder = search.first.folder
        known, failed, asked = search.known(folder), 0, 0
        total = self.trials - len(known)
        while asked < total:
            batch = min(self.batch, total - asked)
            chosen = {job.key: job for job in search.next(known, batch, asked)}
            asked += batch
            left = pending([job for key, job in chosen.items() if key not in known])
            if left:
                check(left, self.processes)
                failed += self._run(left, self.trials, composer, len(known))["failed"]
            known = search.known(folder)
        say_best(search, known, failed)
        if failed:
            raise SystemExit(1)

    @property
    def batch(self) -> int:
        """How many points are chosen at a time: one for each worker."""
        assert self.config is not None
        return worker_count(self.config.hydra.launcher.get("n_jobs", 1))

    def search(self, arguments: list[str], composer: Composer) -> SettingSearch:
        """The search that a command line asks for.

        Raises:
            ConfigCompositionException: it asks for none.
        """
        assert self.context is not None
        loader = self.context.config_loader
        given = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(given)
        space = space_of(overrides, lambda name: bool(loader.get_group_options(name)))
        fixed = [
            f"{one.get_key_element()}={one.get_value_element_as_str()}"
            for one in overrides
            if one.get_key_element() not in space
        ]

        def job(values: Mapping[str, Any]) -> SweepJob:
            own = [*fixed, *(f"{name}={value}" for name, value in values.items())]
            return SweepJob(own, composer.settings(own))

        return SettingSearch(space, job, self.seed)


def say_best(search: SettingSearch, known: Known, failed: int) -> None:
    """Say what came out."""
    print(f"{len(known)} points of this search have their record, {failed} failed here", flush=True)
    if known:
        key, (values, quality) = search.best(known)
        chosen = " ".join(f"{name}={value}" for name, value in values.items())
        print(
            f"best {search.metric.name} on the validation split: {quality:.4g} by {chosen}, "
            f"record {search.first.folder / key}.json",
            flush=True,
        )
