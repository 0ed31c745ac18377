"""A search over settings: what to measure next, chosen by Optuna from the records that are there.

There is no study in a file. Before each choice the study is made anew from the records of the
folder, so that a search goes on after a kill, and several machines search together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import ConfigCompositionException

from experiments.plan import SweepJob
from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.records.best import CHOSEN_BY
from lowrank.records.files import read

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Of points with a record their values and qualities, by the key.
Known = Mapping[str, tuple[dict[str, Any], float]]
# The tag of an interval whose values are drawn by their logarithms.
LOG = "log"


def space_of(overrides: Sequence[Override], groups: Callable[[str], bool]) -> dict[str, Any]:
    """What is searched: intervals as ranges of numbers, lists and ranges as choices.

    Args:
        groups: whether a name is that of a group.

    Raises:
        ConfigCompositionException: nothing is searched, or something that cannot be.
    """
    need("a search", "optuna")
    from optuna import distributions as kinds

    space: dict[str, Any] = {}
    for one in overrides:
        name, swept = one.get_key_element(), one.value()
        if not one.is_sweep_override():
            continue
        if groups(name) or name.rpartition(".")[2].endswith("seed"):
            raise ConfigCompositionException(
                f"{one.input_line}: a search is over fields of one choice and one seed; start one "
                "search for each"
            )
        if isinstance(swept, IntervalSweep):
            low, high, is_log = swept.start, swept.end, LOG in swept.tags
            assert low is not None and high is not None
            is_whole = isinstance(low, int) and isinstance(high, int)
            kind = kinds.IntDistribution if is_whole else kinds.FloatDistribution
            try:
                space[name] = kind(low, high, log=is_log)  # type: ignore[arg-type]
            except ValueError as error:
                raise ConfigCompositionException(f"{one.input_line}: {error}") from error
        else:
            space[name] = kinds.CategoricalDistribution([*one.sweep_string_iterator()])
    if not space:
        raise ConfigCompositionException(
            "there is nothing to search: give an interval or a list of values, such as "
            "'norm.damping=tag(log, interval(0.001, 0.1))' or method.group_size=32,64,128"
        )
    return space


class _Read(NamedTuple):
    """What a file held, and the time, size and number that it had then."""

    state: tuple[int, ...]
    known: Known


@dataclass(frozen=True)
class SettingSearch:
    """A search for the best quality on the validation split, by the first metric of the task.

    Args:
        space: what is searched, by the name of the field.
        job: the point with these values.
        seed: of the sampler.
    """

    space: Mapping[str, BaseDistribution]
    job: Callable[[Mapping[str, Any]], SweepJob]
    seed: int = 0
    _read: dict[Path, _Read] = field(default_factory=dict, init=False, repr=False, compare=False)

    @functools.cached_property
    def first(self) -> SweepJob:
        """The point with the first value of each."""
        kinds = self.space.items()
        return self.job({name: _first(kind) for name, kind in kinds})

    @functools.cached_property
    def metric(self) -> Metric:
        """By which is chosen."""
        # Brings torch.
        from experiments.parts import make_parts

        return make_parts(self.first.settings).task.judged_by()[0]

    def best(self, known: Known) -> tuple[str, tuple[dict[str, Any], float]]:
        """The best of points, which are at least one; of equal ones the first."""
        sign = 1 if self.metric.higher_is_better else -1
        return max(known.items(), key=lambda one: sign * one[1][1])

    def known(self, folder: Path) -> Known:
        """The values and qualities of the points of this search that have a record, by its key, in
        the order in which they were measured. Reads what was not there the last time.
        """
        now: dict[Path, tuple[int, ...]] = {}
        for path in folder.glob("*.json"):
            said = path.stat()
            now[path] = (said.st_mtime_ns, said.st_size, said.st_ino)
        for path in self._read.keys() - now.keys():
            del self._read[path]
        found: dict[str, tuple[dict[str, Any], float]] = {}
        for path in sorted(now, key=lambda path: (now[path][0], path.name)):
            if path not in self._read or self._read[path].state != now[path]:
                self._read[path] = _Read(now[path], self._known(read(path)))
            found |= self._read[path].known
        return found

    def _known(self, record: Mapping[str, Any]) -> Known:
        """The values and the quality of a record by its key; nothing if it is of another search."""
        values = self._values(record)
        quality = record.get(CHOSEN_BY, {}).get(self.metric.name)
        if values is None or quality is None or not math.isfinite(quality):
            return {}
        # Other settings may differ too, which the key of the point shows.
        is_ours = self.job(values).key == record.get("key")
        return {record["key"]: (values, quality)} if is_ours else {}

    def _values(self, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """The values of what is searched in a record; None if it has others."""
        values = {}
        for name, kind in self.space.items():
            value: Any = record.get("config")
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            choices = getattr(kind, "choices", None)
            if choices is not None:
                value = next((choice for choice in choices if _plain(choice) == value), None)
            if value is None:
                return None
            try:
                if not kind._contains(kind.to_internal_repr(value)):
                    return None
            except (ValueError, TypeError):
                return None
            values[name] = value
        return values

    def next(self, known: Known, count: int, asked: int = 0) -> list[SweepJob]:
        """So many points to measure next; among choices, one may be known already.

        Args:
            known: as `known` has them.
            asked: how many were chosen in this run, so that one that failed is not chosen again.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Each choice is drawn anew, and the same from the same records.
        seed = self.seed + len(known) + asked
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=count > 1)
        direction = "maximize" if self.metric.higher_is_better else "minimize"
        study = optuna.create_study(direction=direction, sampler=sampler)
        for values, quality in known.values():
            study.add_trial(
                optuna.trial.create_trial(
                    params=values, distributions=dict(self.space), value=quality
                )
            )
        return [self.job(study.ask(dict(self.space)).params) for _ in range(count)]


def _first(kind: Any) -> Any:
    return kind.choices[0] if hasattr(kind, "choices") else kind.low


def _plain(text: str) -> Any:
    """The value of a text on the command line, as a config has it."""
    return OverridesParser.create().parse_override(f"value={text}").value()
