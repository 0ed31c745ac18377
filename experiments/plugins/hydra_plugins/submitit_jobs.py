"""Hydra launchers for points as jobs of SLURM, or of submitit on this machine.

They take the settings of Hydra's submitit plugin, whose own launchers end a sweep at the first job
that is lost, while others still wait in the queue. Hydra loads launchers only from a package named
hydra_plugins; `experiments.sweep` makes this one known.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn

from experiments.jobs import Job, JobLauncher
from experiments.submitit_cluster import executor_for, run_as_jobs


class SubmititJobs(JobLauncher):
    """Runs jobs by submitit on this machine; see `run_as_jobs`.

    Args:
        settings: as in the config of the plugin.
    """

    kind = "local"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def run_all(
        self, run: Callable[[Job], JobReturn], jobs: Sequence[Job], lost: JobReturn
    ) -> list[JobReturn]:
        return run_as_jobs(executor_for(self.kind, self.settings), run, jobs, lost)


class SlurmJobs(SubmititJobs):
    """Runs jobs by SLURM."""

    kind = "slurm"


if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is not None:
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf

    for _name, _settings, _launcher in (
        ("submitit_local", LocalQueueConf, SubmititJobs),
        ("submitit_slurm", SlurmQueueConf, SlurmJobs),
    ):
        # In the place of the plugin's own of the same name, which were stored by the import.
        ConfigStore.instance().store(
            group="hydra/launcher",
            name=_name,
            node=_settings(_target_=f"hydra_plugins.submitit_jobs.{_launcher.__name__}"),
        )
