"""Jobs as those of SLURM, or of submitit on this machine: each of them may be lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf


def executor_for(kind: str, settings: Mapping[str, Any]) -> Any:
    """What submits jobs.

    Args:
        kind: "slurm" or "local".
        settings: as in the config of Hydra's submitit plugin.
    """
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit import AutoExecutor

    given: dict[str, Any] = {
        name: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        for name, value in settings.items()
    }
    folder, most = given.pop("submitit_folder"), given.pop("max_num_timeout", None)
    first = {} if most is None else {f"{kind}_max_num_timeout": most}
    executor = AutoExecutor(folder, cluster=kind, **first)
    # The names of what not all kinds of executors take begin with their kind.
    common = {one.name for one in fields(BaseQueueConf)}
    own = {name if name in common else f"{kind}_{name}": value for name, value in given.items()}
    executor.update_parameters(**own)
    return executor


def run_as_jobs(
    executor: Any, function: Callable[[Any], Any], tasks: Sequence[Any], lost: Any
) -> list[Any]:
    """The results of `function` for each task, in their order; `lost` where its job was.

    Raises:
        FailedJobError: of submitit, with what `function` raised.
    """
    jobs = executor.map_array(Requeued(function), tasks)
    # All are waited for before any of them is done again.
    return [_result(job, lost) for job in jobs]


@dataclass(frozen=True)
class Requeued:
    """A function that a job which is preempted, or whose time is over, begins again."""

    function: Callable[[Any], Any]

    def __call__(self, task: Any) -> Any:
        return self.function(task)

    def checkpoint(self, task: Any) -> Any:
        """What is submitted in its place."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, task)


def _result(job: Any, lost: Any) -> Any:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return job.results()[0]
    except FailedJobError:
        raise
    except UncompletedJobError as error:
        # Its first lines say which job, and its state.
        print(" ".join(str(error).splitlines()[:2]), file=sys.stderr, flush=True)
        return lost
