"""The run of one job of a sweep in a worker, as by Hydra's own launchers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


@dataclass(frozen=True)
class LauncherSetup:
    """The arguments of `Launcher.setup`, the same for all its jobs."""

    context: HydraContext
    config: DictConfig
    task_function: TaskFunction


def run_one(setup: LauncherSetup, state: dict[Any, Any], job: tuple[int, list[str]]) -> JobReturn:
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
