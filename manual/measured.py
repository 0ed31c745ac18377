"""The tables of results/: what was measured of each method, on which task and in which metric."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank.metrics.metric import NONE, Metric
from lowrank.records.columns import COSTS, level_text
from lowrank.tasks import object_detection, vocoding
from lowrank.tasks.class_metrics import class_metrics
from lowrank.tasks.heads import answer_targets
from lowrank.tasks.segmentation_scores import PIXEL_METRICS
from lowrank.tasks.text_metrics import LIKELIHOOD
from lowrank.tasks.text_scores import RECOGNITION, TRANSLATION
from manual.catalogue import CONF, ROOT

RESULTS = ROOT / "results"
# Those by which tasks judge, of which a table has its own first. A task knows its metrics only with
# its data, which the site is made without.
JUDGED = (
    *class_metrics(classes=2),
    *LIKELIHOOD,
    *PIXEL_METRICS,
    *object_detection.METRICS,
    *vocoding.METRICS,
    *TRANSLATION,
    *RECOGNITION,
    *answer_targets.METRICS,
)
METRICS = {metric.name: metric for metric in JUDGED}
# A sweep of fewer methods is no choice among them.
FEWEST = 8


@dataclass(frozen=True)
class SweepResult:
    """The points of one sweep.

    Attributes:
        folder: in results/, and the experiment that makes it.
        title: task, model and recovery.
        metric: that by which the task judges.
        size: the measure of size of the sweep's report, a key of `COSTS`.
        points: a row for each method, norm and level, as in the CSV.
    """

    folder: str
    title: str
    metric: Metric
    size: str
    points: pd.DataFrame

    @property
    def compares(self) -> bool:
        """Whether the sweep is of enough methods to choose among them."""
        return len(set(self.points["method"])) >= FEWEST

    def of(self, method: str) -> pd.DataFrame:
        """The points of a method, from the largest to the smallest."""
        own: Any = self.points[self.points["method"] == method]
        return own.sort_values(self.size, ascending=COSTS[self.size].higher_is_better)

    def quality(self, point: Any) -> str:
        """The metric of a point as text, with its spread over seeds."""
        return self.metric.text(*(float(point[name]) for name in self._value))

    def estimate(self, point: Any) -> str:
        """The metric of a point as text, with its interval over examples and number of seeds."""
        name, seeds = self.metric.name, int(point["seeds"])
        ends = [float(point.get(f"{name}{end}", float("nan"))) for end in ("_low", "_high")]
        if any(end != end for end in ends):
            text = self.quality(point)
        else:
            shown = [self.metric.text(value) for value in (float(point[name]), *ends)]
            text = f"{shown[0]} [{shown[1]}, {shown[2]}]"
        return f"{text}, {seeds} seed{'' if seeds == 1 else 's'}"

    def cost(self, point: Any, name: str) -> str:
        """A measure of cost as text; a dash where it was not measured."""
        if name not in point:
            return NONE
        shown = COSTS.get(name) or Metric(name, name, name, "ratio")
        return shown.text(float(point[name])) + ("×" if shown.scale == "ratio" else "")

    @property
    def _value(self) -> tuple[str, str]:
        return self.metric.name, f"{self.metric.name}_std"


def level(point: Any) -> str:
    return level_text(point["level"])


def measured() -> list[SweepResult]:
    """The sweeps with a table of points in results/ and an experiment of that name."""
    return [
        _measured(folder.name, table)
        for folder in sorted(RESULTS.iterdir())
        if (CONF / "experiment" / f"{folder.name}.yaml").is_file()
        for table in sorted(folder.glob("*-points.csv"))
    ]


def _measured(folder: str, table: Path) -> SweepResult:
    points = pd.read_csv(table)
    metric = next((METRICS[name] for name in points if name in METRICS), None)
    if metric is None:
        raise ValueError(f"{table}: no column is one of {', '.join(METRICS)}: add it to JUDGED")
    for column in (f"{metric.name}_std", "norm"):
        if column not in points:
            points[column] = None
    caption = table.with_suffix(".md").read_text(encoding="utf-8")
    return SweepResult(
        folder=folder,
        title=caption.partition(":")[0],
        metric=metric,
        size=next(name for name in points if name in COSTS),
        points=points,
    )
