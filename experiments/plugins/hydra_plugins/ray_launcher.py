"""A Hydra launcher for points as tasks of Ray, on this machine or on a cluster.

In place of Hydra's Ray plugin, which needs a cloudpickle that joblib refuses, and loses all points
with one worker. Hydra loads launchers only from a package named hydra_plugins; `experiments.sweep`
makes this one known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn

from experiments.jobs import Job, JobLauncher
from experiments.ray_cluster import check_fits, connect, run_on_cluster
from experiments.workers import worker_count

ConfigStore.instance().store(
    group="hydra/launcher",
    name="ray",
    node={
        "_target_": "hydra_plugins.ray_launcher.RayLauncher",
        "address": None,
        "n_jobs": -1,
        "cpus": 1,
        "gpus": 0,
    },
)


class RayLauncher(JobLauncher):
    """Runs jobs as tasks of Ray; see `run_on_cluster`.

    Args:
        address: of the cluster; see `connect`.
        n_jobs: how many jobs at a time, at least 1; −1 for as many as the cluster has room for.
        cpus: of each job.
        gpus: of each job.

    Raises:
        ValueError: another number.
    """

    def __init__(self, address: str | None, n_jobs: int, cpus: float, gpus: float) -> None:
        worker_count(n_jobs)
        for name, number in (("cpus", cpus), ("gpus", gpus)):
            if type(number) not in (int, float) or not 0 <= number < math.inf:
                raise ValueError(f"hydra.launcher.{name}={number} must be a number from 0")
        self.address, self.n_jobs, self.cpus, self.gpus = address, n_jobs, cpus, gpus

    def run_all(
        self, run: Callable[[Job], JobReturn], jobs: Sequence[Job], lost: JobReturn
    ) -> list[JobReturn]:
        """As in the base.

        Raises:
            SystemExit: there is no such cluster, or no machine of it is large enough.
        """
        try:
            connect(self.address)
            check_fits(self.cpus, self.gpus)
        except (ConnectionError, ValueError) as error:
            raise SystemExit(f"hydra/launcher=ray: {error}") from None
        at_once = self.n_jobs if self.n_jobs > 0 else len(jobs)
        return run_on_cluster(run, jobs, at_once, self.cpus, self.gpus, lost)
