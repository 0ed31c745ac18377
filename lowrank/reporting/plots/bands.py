"""The bands of points: intervals over test examples, or spreads over seeds where there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowrank.reporting.errors import dense_errors

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Bands:
    """What the bands of one figure are; see `bands_of`.

    Attributes:
        y: the metric.
        are_intervals: whether they are 95 % intervals over test examples, for the same networks;
            else mean ± one standard deviation over seeds.
        dense: the ends of the band of the dense model; NaN if it has none.
    """

    y: str
    are_intervals: bool
    dense: tuple[float, float]

    def of(self, points: Any) -> tuple[Any, Any]:
        """The lower and the upper ends of the bands of points."""
        if self.are_intervals:
            return points[f"{self.y}_low"], points[f"{self.y}_high"]
        mean, spread = points[self.y], points[f"{self.y}_std"]
        return mean - spread, mean + spread

    def label(self, seeds: Any) -> str:
        """Their name in a legend, by the seeds of each point; empty where there is no band."""
        fewest, most = seeds.min(), seeds.max()
        if self.are_intervals:
            dots = "; dots: single seeds" if most > 1 else ""
            return f"95 % interval over test examples{dots}"
        counted = f"{most}" if fewest == most else f"{fewest} to {most}"
        return f"± 1 std, {counted} seeds" if most > 1 else ""


def bands_of(frame: pd.DataFrame, points: Any, y: str, dense: tuple[float, float]) -> Bands:
    """The bands of a figure: intervals where every point has its own, for they are all of one kind.

    Args:
        frame: rows of `lowrank.records.store.load`.
        points: of `lowrank.reporting.errors.summarise_with_errors`.
        dense: mean and standard deviation over seeds of the dense model's `y`.
    """
    low = f"{y}_low"
    if low in points and not any(points[low].isna()):
        return Bands(y, True, dense_errors(frame, y)[1:])
    mean, spread = dense
    return Bands(y, False, (mean - spread, mean + spread))
