"""A command line of the sweep program, composed and checked in this process; nothing is run."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException

import experiments.sweep  # noqa: F401  It says where Hydra finds the sweeper.
from experiments.composer import Composer
from experiments.plan import check, pending
from experiments.yaml_folders import CONF


def refused(*arguments: str):
    """What the program does before it runs anything, as an act of a row.

    Raises:
        ValueError: what it would print before it ends.
    """

    def act(folder: Path) -> None:
        records = folder / "records"
        given = list(arguments)
        if not any(argument.startswith("results=") for argument in given):
            given.append(f"results={records}")
        try:
            _check(given)
        except (SystemExit, HydraException) as error:
            assert not list(records.glob("*")), "something was run"
            raise ValueError(_said(error)) from error

    return act


def _check(arguments: list[str]) -> None:
    chosen = next((a for a in arguments if a.startswith("experiment=")), "")
    sweeper, composer = _composer(chosen)
    jobs = [sweeper.job(job, arguments, composer) for job in sweeper.jobs(arguments)]
    n_jobs = next((a.partition("=")[2] for a in arguments if "n_jobs" in a), "1")
    check(pending(jobs), int(n_jobs) if n_jobs.lstrip("-").isdigit() else n_jobs)


@functools.cache
def _composer(experiment: str) -> tuple[Any, Composer]:
    """The sweeper and the composer of an experiment; reading the YAML takes a while."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [experiment] if experiment else []
        config = compose("config", overrides, return_hydra_config=True)
        loader = GlobalHydra.instance().config_loader()
        context: Any = SimpleNamespace(config_loader=loader, callbacks=None)
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=lambda config: None, config=config
        )
    return sweeper, Composer(loader, config)


def _said(error: BaseException) -> str:
    """The text of an error with that of its causes, as Hydra prints them."""
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    return "\n".join(texts)
