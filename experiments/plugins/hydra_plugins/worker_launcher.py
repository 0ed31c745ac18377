"""A Hydra launcher for several points at once, in workers that may be killed.

In place of the launcher of Hydra's joblib plugin, which a killed worker ends with all its points,
and whose workers outlive a parent that is killed. Hydra loads launchers only from a package named
hydra_plugins; `experiments.sweep` makes this one known.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.jobs import LauncherSetup, run_one
from experiments.workers import run_in_workers, worker_count

# The name of the joblib plugin's launcher, which this one replaces if both are installed: it is
# found later, because this folder comes last.
ConfigStore.instance().store(
    group="hydra/launcher",
    name="joblib",
    node={"_target_": "hydra_plugins.worker_launcher.WorkerLauncher", "n_jobs": -1},
)


class WorkerLauncher(Launcher):
    """Runs jobs in `n_jobs` processes at a time; see `run_in_workers`.

    Args:
        n_jobs: how many, at least 1; −1 for one on each core.

    Raises:
        ValueError: another number.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = worker_count(n_jobs)
        self.launcher_setup: LauncherSetup | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.launcher_setup = LauncherSetup(hydra_context, config, task_function)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        assert self.launcher_setup is not None
        jobs = [
            (number, list(overrides))
            for number, overrides in enumerate(job_overrides, start=initial_job_idx)
        ]
        run = partial(run_one, self.launcher_setup, Singleton.get_state())
        lost = JobReturn(_return_value="lost", status=JobStatus.COMPLETED)
        return run_in_workers(run, jobs, self.n_jobs, lost)
