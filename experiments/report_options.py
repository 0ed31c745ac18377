"""The options of a report, checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# The fields that are lists of names.
LISTS = ("compare", "methods", "tuned")


@dataclass(frozen=True)
class Options:
    """The fields of conf/report/report.yaml, which says what each is.

    Raises:
        ValueError: one of them cannot be; the text names it.
    """

    experiment: str
    runs: str
    out: str
    metric: str | None
    size: str | None
    close_up: float | None
    layers_at: float | None
    spectra: bool
    html: bool
    across_tasks: bool
    methods: tuple[str, ...] | None
    tuned: tuple[str, ...] | None
    paper: str | float | None
    font_size: float | None
    compare: tuple[str, ...] | None

    def __post_init__(self) -> None:
        for name in ("experiment", "runs", "out"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a text")
        for name in ("metric", "size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(
                    f"{name}={value!r} must be the name of a column of the records, or null for "
                    "that by which the task judges, or the size that suits its model"
                )
        for name in ("close_up", "layers_at"):
            value = getattr(self, name)
            if value is not None and not _is_above_zero(value):
                raise ValueError(f"{name}={value!r} must be a number above 0, or null for none")
        for name in ("spectra", "html", "across_tasks"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false")
        for name, null in (("compare", "no comparison"), ("methods", "all")):
            self._check_names(name, null)
        if self.tuned is not None and not (self.tuned and all(self.tuned)):
            raise ValueError(
                f"tuned={list(self.tuned)!r} must be settings, such as recovery.learning_rate, or "
                "null for none"
            )
        self._check_paper()
        self._check_across()
        if Path(self.runs).is_file():
            raise ValueError(f"runs={self.runs} is a file: give the folder of the records")
        self._check_out()

    def _check_names(self, field: str, null: str) -> None:
        names = getattr(self, field)
        if names is not None and not (names and all(isinstance(n, str) and n for n in names)):
            raise ValueError(
                f"{field}={list(names)!r} must be names of methods, such as [gptq,awq], or null "
                f"for {null}"
            )

    def _check_paper(self) -> None:
        from lowrank.reporting.plots import Paper

        own = {} if self.font_size is None else {"font_size": self.font_size}
        if self.paper is not None:
            try:
                Paper(self.paper, **own)  # type: ignore[arg-type]
            except ValueError as error:
                raise ValueError(f"paper={self.paper!r}: {error}") from error
        elif own:
            raise ValueError(
                f"font_size={self.font_size!r} is that of figures for a paper: give paper=column, "
                "paper=page or paper=<inches> too"
            )

    def _check_across(self) -> None:
        """Raise ValueError for an option that a report across tasks does not read."""
        given = {"size": self.size, "spectra": self.spectra, "html": self.html, "paper": self.paper}
        given["tuned"] = self.tuned and list(self.tuned)
        idle = [name for name, value in given.items() if value]
        if self.across_tasks and idle:
            raise ValueError(
                f"{idle[0]}={given[idle[0]]} has no effect with across_tasks=true: leave one of "
                "them out"
            )

    def _check_out(self) -> None:
        """Raise ValueError for a link at `out`, which untrusted records may have brought along."""
        runs, out = Path(self.runs), Path(self.out)
        if out.is_relative_to(runs) and not out.resolve().is_relative_to(runs.resolve()):
            raise ValueError(f"out={out} is a link to {out.resolve()}: give out={out.resolve()}")
        links = [path for path in (out.iterdir() if out.is_dir() else ()) if path.is_symlink()]
        if links:
            raise ValueError(f"{links[0]} is a link to a file elsewhere: remove it first")


def options(config: DictConfig) -> Options:
    """The options of a composed config.

    Raises:
        ValueError: one is not known, is missing, refers to nothing, or cannot be.
    """
    try:
        given: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(" ".join(str(error).split())) from error
    known = [field.name for field in fields(Options)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"there is no option {unknown[0]!r}: there are {', '.join(known)}")
    return Options(**given | {name: _names(given[name]) for name in LISTS})


def _names(given: Any) -> tuple[Any, ...] | None:
    """The names of methods that are given as a list or as one text with commas."""
    if given is None:
        return None
    return tuple(given if isinstance(given, list) else str(given).split(","))


def _is_above_zero(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0
