"""The methods, each at one level, that were trained for all tasks of one base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import Metric
from lowrank.records.columns import level_text, measure, metrics_of
from lowrank.records.keys import SEED_FIELDS

if TYPE_CHECKING:
    import pandas as pd

# Parts of the config that say how a task was trained, and not on what.
SETTINGS = ("method.", "norm.", "where.", "recovery.", "config.values")
SHARED, HASH, OWN = (f"sharing.{name}" for name in ("shared_bytes", "shared_hash", "own_bytes"))


@dataclass(frozen=True)
class Competitor:
    """A method at one level, trained for each task with each seed.

    Attributes:
        level: NaN where the method has none.
        chosen: of the settings that were tried at this level, the best on the validation splits:
            the values of those fields that differ; empty where one was tried.
        rows: the rows of its records, by task and seed.
        shared_bytes: of the base, stored once for all tasks; the mean over seeds.
        own_bytes: of one task besides; the mean over tasks and seeds.
    """

    method: str
    level: float
    chosen: Mapping[str, str]
    rows: Mapping[tuple[str, int], Any]
    shared_bytes: float
    own_bytes: float

    @property
    def name(self) -> str:
        """The method and its level, such as ``lora 4``."""
        return (
            f"{self.method} {level_text(self.level)}" if self.level == self.level else self.method
        )

    def bytes(self, tasks: int) -> float:
        """Stored bytes of the base and so many tasks, if more take what these do."""
        return self.shared_bytes + tasks * self.own_bytes

    def fewer_from(self, other: Competitor) -> int | None:
        """The number of tasks from which on it takes fewer bytes than another; None if none."""
        extra, saved = self.shared_bytes - other.shared_bytes, other.own_bytes - self.own_bytes
        if saved <= 0:
            return 1 if saved == 0 and extra < 0 else None
        return max(1, int(extra // saved) + 1)


@dataclass(frozen=True)
class Contest:
    """The contenders of records of several tasks of one base.

    Attributes:
        left_out: those without a record for each task and seed, in words.
    """

    metric: Metric
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    contenders: tuple[Competitor, ...]
    left_out: tuple[str, ...]


def contest(frame: pd.DataFrame, metric: str | None = None) -> Contest:
    """The contenders of rows of `lowrank.records.store.load`, of several tasks of one model.

    Of several settings of one method and level, such as learning rates, the one that is best on the
    validation splits, on average over tasks and seeds, stands for it.

    Args:
        metric: an average over examples; that by which the tasks judge, if not given.

    Raises:
        ValueError: there are several models; a record does not say what its tasks share; what one
            has on record as shared is not the same in all tasks; the metric is no mean over
            examples; or no method has all tasks and seeds.
    """
    _check_frame(frame)
    shown = _metric(frame, metric)
    tasks, seeds = tuple(sorted(frame["task"].unique())), tuple(sorted(frame["seed"].unique()))
    texts: Any = _settings(frame)
    level: Any = frame["level"].astype(float)
    found, left_out = [], []
    levels: Any = frame.groupby(["method", level], dropna=False, sort=False)
    for (method, own_level), rows in levels:
        own: Any = texts.loc[rows.index]
        varied = [name for name in own if own[name].nunique() > 1]
        groups = list(rows.groupby([own[name] for name in varied])) if varied else [((), rows)]
        made = [_contender(method, own_level, varied, *group) for group in groups]
        whole = [one for one in made if len(one.rows) == len(tasks) * len(seeds)]
        left_out += [_described(one) for one in made if one not in whole]
        if whole:
            found.append(max(whole, key=lambda one: _on_validation(frame, one, shown)))
    if not found:
        raise ValueError(
            f"no method has a record of each of {len(tasks)} tasks and {len(seeds)} seeds: let the "
            "sweep end first"
        )
    for one in found:
        _check_shared(frame, one, seeds)
    order = sorted(found, key=lambda one: (one.method, one.level if one.level == one.level else -1))
    return Contest(shown, tasks, seeds, tuple(order), tuple(dict.fromkeys(left_out)))


def _described(one: Competitor) -> str:
    """A name with the settings that tell it from others of that name."""
    settings = ", ".join(f"{name}={text}" for name, text in one.chosen.items())
    return f"{one.name} ({settings})" if settings else one.name


def _check_frame(frame: Any) -> None:
    if frame["model"].nunique() > 1:
        raise ValueError(
            f"the records are of several models ({', '.join(sorted(frame['model'].unique()))}), "
            "which have no base in common: select one"
        )
    lacking = frame if HASH not in frame else frame[frame[HASH].isna()]
    if len(lacking):
        raise ValueError(
            f"{lacking['path'].iloc[0]} does not say what its tasks share: only points with a "
            "recovery that trains do, such as recovery=finetune"
        )


def _metric(frame: pd.DataFrame, metric: str | None) -> Metric:
    known = metrics_of(frame)
    shown = measure(frame, metric or next(iter(known)))
    if shown.name not in known or shown.average != "mean":
        means = ", ".join(name for name, one in known.items() if one.average == "mean")
        raise ValueError(
            f"metric={shown.name!r} is no mean over test examples, which a mean over tasks needs: "
            f"take one that is ({means or 'these tasks have none'})"
        )
    return shown


def _settings(frame: pd.DataFrame) -> Any:
    """The fields of the config that say how a task was trained, as text."""
    names = [
        name
        for name in map(str, frame)
        if name.startswith(SETTINGS) and name.rpartition(".")[2] not in SEED_FIELDS
    ]
    return frame[names].astype(str)


def _contender(
    method: Any, level: float, varied: Sequence[str], values: Any, rows: Any
) -> Competitor:
    twice = rows[rows.duplicated(["task", "seed"])]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(
            f"method {method} at level {level} has task {first['task']} with seed {first['seed']} "
            "more than once: the records of several sweeps are mixed, or differ in the task alone"
        )
    return Competitor(
        str(method),
        float(level),
        dict(zip(varied, map(str, values), strict=True)),
        dict(zip(zip(rows["task"], rows["seed"], strict=True), rows.index, strict=True)),
        float(rows[SHARED].mean()),
        float(rows[OWN].mean()),
    )


def _on_validation(frame: pd.DataFrame, one: Competitor, shown: Metric) -> float:
    rows: Any = frame.loc[list(one.rows.values())]
    return shown.sign * float(rows[f"validation_{shown.name}"].mean())


def _check_shared(frame: pd.DataFrame, one: Competitor, seeds: Sequence[int]) -> None:
    """Raise ValueError unless the tasks of each seed have one base, bit for bit."""
    for seed in seeds:
        rows: Any = frame.loc[[row for (_, own), row in one.rows.items() if own == seed]]
        first = rows.iloc[0]
        apart = rows[(rows[HASH] != first[HASH]) | (rows[SHARED] != first[SHARED])]
        if len(apart):
            raise ValueError(
                f"{one.name} with seed {seed} has another base for {apart['task'].iloc[0]} than "
                f"for {first['task']}, so that it cannot be stored once for both: what is frozen "
                "must not depend on the task, such as on its calibration data"
            )
