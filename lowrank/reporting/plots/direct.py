"""Direct labels: the name of each line beside its end, in place of a legend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.reporting.plots.text import INCH, shortened, width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# From the right edge of the axes, in points of print: the end of a leader, the marker, the text.
LEADER, MARKER, TEXT = 3.0, 7.5, 12.5
# The height of a line of a label over the size of its print, and the most lines of one.
PITCH, MOST_LINES = 1.15, 3


@dataclass(frozen=True)
class DirectLabel:
    """The label of one line: its text, a marker like those of the line, and a leader to its end."""

    line: Line2D
    text: Any
    marker: Line2D
    leader: Any

    @property
    def points(self) -> float:
        """The height that it takes, in points of print."""
        return PITCH * self.text.get_fontsize() * (1 + self.text.get_text().count("\n"))


def apart(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> np.ndarray:
    """The middles of intervals that do not overlap, in the order of `wanted` and nearest to it.

    Of all such intervals within [low, high] those of the least sum of squared distances: with the
    spacing taken off, an isotonic regression (Barlow et al., Statistical Inference under Order
    Restrictions, 1972), whose solution under bounds is the unbounded one cut off at them.

    Args:
        wanted: middles of shape (n,), ascending.
        heights: of the intervals, shape (n,), above 0.
        low: the lower end.
        high: the upper end; where the heights do not fit below it, they go beyond.

    Returns:
        Middles of shape (n,), ascending.
    """
    from scipy.optimize import isotonic_regression

    sizes = np.asarray(heights, dtype=float)
    middles = np.cumsum(sizes) - sizes / 2  # of the intervals pushed together, from 0 on
    free = isotonic_regression(np.asarray(wanted, dtype=float) - middles).x
    return np.clip(free, low, max(low, high - sizes.sum())) + middles


def add_labels(axes: Axes, inches: float, points: float) -> list[DirectLabel]:
    """Labels right of `axes` for its named lines, not yet apart; see `spread`.

    Args:
        axes: their scales and limits are set. Lines of which no point is seen get no label.
        inches: the width of labels.
        points: size of the print.
    """
    lines: Any = axes.get_legend_handles_labels()[0]
    most = inches - TEXT / INCH
    return [_added(axes, line, most, points) for line in lines if end_of(line) is not None]


def broken(name: str, inches: float, points: float) -> str:
    """A name in lines of at most `inches`, broken after underscores, spaces and plus signs.

    Of more than three lines the middle is left out.
    """
    lines = [""]
    for word in re.split(r"(?<=[_ +])", name.strip()):
        if lines[-1] and width(lines[-1] + word, points) > inches * INCH:
            lines.append("")
        lines[-1] += word
    if len(lines) > MOST_LINES:
        lines = [lines[0], "…", lines[-1]]
    return "\n".join(shortened(line.strip(), inches, points) for line in lines)


def spread(labels: Sequence[DirectLabel]) -> None:
    """Move labels of one pair of axes apart, once the layout has given the axes their place."""
    if not labels:
        return
    axes: Any = labels[0].line.axes
    box, scale = axes.bbox, axes.get_figure(root=True).dpi / 72
    ends = {label: np.asarray(end_of(label.line)) for label in labels}
    # Where lines end at one height, the one that ends further left gets the lower label, so that
    # leaders do not cross.
    ordered = sorted(labels, key=lambda label: (round(ends[label][1], 1), ends[label][0]))
    heights = [label.points * scale for label in ordered]
    places = apart([ends[label][1] for label in ordered], heights, box.y0, box.y1)
    for label, place in zip(ordered, places, strict=True):
        height = (place - box.y0) / box.height
        x, y = axes.transAxes.inverted().transform(ends[label])
        label.text.set_y(height)
        label.marker.set_ydata([height])
        label.leader.set_data([x, 1.0, 1.0 + LEADER * scale / box.width], [y, height, height])


def end_of(line: Line2D) -> tuple[float, float] | None:
    """Where a line ends or leaves its axes, in pixels; None if no point of it is seen."""
    axes: Any = line.axes
    path = axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
    low, high = axes.bbox.min - 0.5, axes.bbox.max + 0.5
    inside = ((path >= low) & (path <= high)).all(axis=1)
    if not inside.any():
        return None
    last = int(np.flatnonzero(inside)[-1])
    point = path[last]
    if last + 1 < len(path):
        way = path[last + 1] - point
        if not np.isfinite(way).all():
            return float(point[0]), float(point[1])
        ends = np.where(way > 0, high, low)
        # A part of the way of 1 in an axis in which it does not move.
        parts = np.divide(ends - point, way, out=np.ones(2), where=way != 0)
        point = point + way * parts.clip(0, 1).min()
    return float(point[0]), float(point[1])


def _added(axes: Axes, line: Line2D, inches: float, points: float) -> DirectLabel:
    from matplotlib.transforms import ScaledTranslation

    figure: Any = axes.get_figure(root=True)

    def beside(distance: float) -> Any:
        return axes.transAxes + ScaledTranslation(distance / 72, 0, figure.dpi_scale_trans)

    look: Any = {"color": line.get_color(), "clip_on": False}
    (leader,) = axes.plot(
        *([1.0, 1.0], [0.5, 0.5]), transform=axes.transAxes, linewidth=0.5, zorder=1.5, **look
    )
    leader.set(alpha=0.6, gid="leader")
    (marker,) = axes.plot(
        *([1.0], [0.5]),
        transform=beside(MARKER),
        linestyle="none",
        marker=line.get_marker(),
        markersize=line.get_markersize(),
        markerfacecolor=line.get_markerfacecolor(),
        markeredgecolor=line.get_markeredgecolor(),
        markeredgewidth=line.get_markeredgewidth(),
        gid="direct marker",
        **look,
    )
    text = axes.text(
        *(1.0, 0.5, broken(str(line.get_label()), inches, points)),
        transform=beside(TEXT),
        fontsize=points,
        linespacing=1.0,
        va="center",
        gid="direct label",
    )
    return DirectLabel(line, text, marker, leader)
