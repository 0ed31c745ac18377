"""Measures points: every combination of the options given, and of an experiment's grids.

    python -m experiments.sweep task=digits method=svd method.rank=8
    python -m experiments.sweep method=magnitude method.sparsity=0.5,0.8,0.9 seed=0,1,2
    python -m experiments.sweep experiment=digits

Each point becomes one record in `results`; a point that has its record is passed over.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.output import read_by_others
from experiments.required import REPORTS, require
from experiments.yaml_folders import CONF, check_own
from lowrank.files.extras import MissingExtra, need

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from experiments.progress import Progress

# Hydra takes sweepers only from packages named hydra_plugins; ours lies in this folder.
PLUGINS = str(Path(__file__).resolve().parent / "plugins")
sys.path.append(PLUGINS)
# Launchers by the library that they need.
LAUNCHERS = {"ray": "ray", "submitit_local": "submitit", "submitit_slurm": "submitit"}


def task_function(config: DictConfig, progress: Progress) -> str | None:
    """Run one point; see `experiments.point.run_point`."""
    show_progress()
    # Brings torch, which a sweep whose records are all there does without.
    from experiments.point import run_point

    return run_point(config, progress)


def show_progress() -> None:
    """Print what the library says of long work to stderr, in this process."""
    logger = logging.getLogger("lowrank")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("  %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stderr)  # A worker may give each point another.


def need_launcher(arguments: Sequence[str]) -> None:
    """Raise MissingExtra if a launcher was asked for that is not installed."""
    for argument in arguments:
        name = argument.removeprefix("hydra/launcher=")
        if name != argument and name in LAUNCHERS:
            need(argument, LAUNCHERS[name])


def main() -> None:
    """Run the sweep of the command line.

    Raises:
        SystemExit: a point failed, the command line is wrong, or a library is not installed.
    """
    require("lowrank sweep", "hydra", "joblib", "threadpoolctl", *REPORTS)
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        need_launcher(sys.argv[1:])
    except MissingExtra as error:
        sys.exit(f"{error}")
    # Jobs on other machines look for our sweeper, too.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (os.environ.get("PYTHONPATH"), PLUGINS))
    )
    if not any(argument.startswith("-") for argument in sys.argv[1:]):
        # The config says so too, but where it has an error Hydra would not get to read that.
        sys.argv.append("--multirun")
    check_own()
    sweep = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    try:
        # Not called by Hydra itself but by our sweeper, which adds the progress.
        sweep(task_function)()  # type: ignore[arg-type]
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (HydraException, OmegaConfBaseException) as error:
        # Of --help, whose errors Hydra does not catch itself as it does those of a sweep.
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(str(error))


if __name__ == "__main__":
    with read_by_others():
        main()
