"""The tasks that benchmarks are given by name."""

from __future__ import annotations

from experiments.composed import on_one_line
from experiments.yaml_folders import CONF
from lowrank.tasks import Task


def task_named(name: str) -> Task:
    """The task of that name in conf/task.

    Raises:
        ValueError: there is none, or it cannot be made without more settings; one line.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from hydra.utils import instantiate
    from omegaconf.errors import OmegaConfBaseException

    known = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
    if name not in known:
        raise ValueError(f"--task {name} is not in conf/task: there are {', '.join(known)}")
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            return instantiate(compose(f"task/{name}").task, _convert_="all")
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"--task {name} cannot be made: {on_one_line(error)}") from error
