"""Launchers of a sweep's jobs in workers, where each job runs as by Hydra's own launchers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


@dataclass(frozen=True)
class LauncherSetup:
    """The arguments of `Launcher.setup`, the same for all its jobs."""

    context: HydraContext
    config: DictConfig
    task_function: TaskFunction


# The number of a job, and its overrides.
Job = tuple[int, list[str]]


class JobLauncher(Launcher):
    """Runs jobs in other processes, each of which may be lost."""

    launcher_setup: LauncherSetup | None = None

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
        return self.run_all(run, jobs, lost)

    @abstractmethod
    def run_all(
        self, run: Callable[[Job], JobReturn], jobs: Sequence[Job], lost: JobReturn
    ) -> list[JobReturn]:
        """What `run` returns for each job, in their order; `lost` where its worker was killed."""


def run_one(setup: LauncherSetup, state: dict[Any, Any], job: Job) -> JobReturn:
    """Run a job, its number and its overrides.

    Args:
        state: of Hydra's singletons in the parent.
    """
    number, overrides = job
    setup_globals()
    Singleton.set_state(state)
    config = setup.context.config_loader.load_sweep_config(setup.config, overrides)
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=setup.context,
        task_function=setup.task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
