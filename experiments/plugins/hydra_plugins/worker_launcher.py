"""A Hydra launcher for several points at once, in workers that may be killed.

In place of the launcher of Hydra's joblib plugin, which a killed worker ends with all its points,
and whose workers outlive a parent that is killed. Hydra loads launchers only from a package named
hydra_plugins; `experiments.sweep` makes this one known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn

from experiments.jobs import Job, JobLauncher
from experiments.workers import run_in_workers, worker_count

# The name of the joblib plugin's launcher, which this one replaces if both are installed: it is
# found later, because this folder comes last.
ConfigStore.instance().store(
    group="hydra/launcher",
    name="joblib",
    node={"_target_": "hydra_plugins.worker_launcher.WorkerLauncher", "n_jobs": -1},
)


class WorkerLauncher(JobLauncher):
    """Runs jobs in `n_jobs` processes at a time; see `run_in_workers`.

    Args:
        n_jobs: how many, at least 1; −1 for one on each core.

    Raises:
        ValueError: another number.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = worker_count(n_jobs)

    def run_all(
        self, run: Callable[[Job], JobReturn], jobs: Sequence[Job], lost: JobReturn
    ) -> list[JobReturn]:
        return run_in_workers(run, jobs, self.n_jobs, lost)
