"""One pair of axes with quality against size: a line per method, the dense model, the front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.metrics.metric import Metric
from lowrank.records.columns import measure
from lowrank.reporting import captions
from lowrank.reporting.curves import dense_baseline, pareto_front
from lowrank.reporting.errors import summarise_with_errors
from lowrank.reporting.plots.bands import Bands, bands_of
from lowrank.reporting.plots.style import DENSE, HOLLOW, RC, Style
from lowrank.reporting.plots.text import labelled
from lowrank.reporting.plots.ticks import set_axis

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# A logarithmic axis ends at this many times the dense model's value: models beyond it are broken,
# and showing them would only squeeze the curves of the others.
MOST_TIMES_DENSE = 100
# The margin at either end of the axis, as a share of its length.
ROOM = 0.05
# Arrows for points above the axis: how far below its end, and how far apart those at one size are,
# in points of print.
BELOW, APART = 4.5, 5.0
UPWARD = [(-0.1, -1), (0.1, -1), (0.1, 0.2), (0.45, 0.2), (0, 1), (-0.45, 0.2), (-0.1, 0.2)]
ARROW: dict[str, Any] = {"marker": UPWARD, "markersize": 7, "markeredgewidth": 0}


@dataclass(frozen=True)
class Curves:
    """The data of all panels of one figure; see `curves_of`."""

    points: Any  # one row per method and level: means and spreads
    seeds: Any  # one row per record
    x: str
    y: str
    x_measure: Metric
    y_measure: Metric
    dense_x: float
    dense: tuple[float, float]
    bands: Bands
    styles: Mapping[str, Style]
    limits: tuple[float, float] | None  # of the y axis; None: as the values give them
    title: str
    note: str  # what else must be known to read the figure

    @property
    def measured(self) -> bool:
        """Whether x is a measured speedup, which has a spread of its own."""
        return f"{self.x}_low" in self.points

    @property
    def front(self) -> np.ndarray:
        """Which points are on the front, and last whether the dense model is."""
        x = np.append(self.points[self.x], self.dense_x)
        y = np.append(self.points[self.y], self.dense[0])
        return pareto_front(self.x_measure.sign * x, y, self.y_measure.higher_is_better)

    @property
    def beyond(self) -> pd.DataFrame:
        """The points that a logarithmic axis does not reach."""
        top = self.limits[1] if self.limits and self.y_measure.scale == "log" else np.inf
        return self.points[self.points[self.y] > top]


def curves_of(
    frame: pd.DataFrame, x: str, y: str, styles: Mapping[str, Style], span: float | None
) -> Curves:
    """The means and spreads of y against x, and how far the y axis goes.

    Args:
        span: a close-up: how far on the worse side of the dense model y is shown, in units of y, or
            as a share of the dense model's on a logarithmic axis; on the better a tenth of it.

    Methods without a value of x or y, such as one without a speedup, are named in the note.

    Raises:
        ValueError: as `summarise`; `span` is not above 0; no record has both x and
            y; or a value is not above 0 and its axis is logarithmic.
    """
    if span is not None and not 0 < span < np.inf:
        raise ValueError(f"span={span} must be above 0: how far below the dense model to look")
    columns = [x, y, *(name for name in (f"{x}_low", f"{x}_high") if name in frame)]
    points: Any = summarise_with_errors(frame, columns)
    measures = measure(frame, x), measure(frame, y)
    there = points[[x, y]].notna().all(axis=1) & (points[x] > 0)
    left_out = sorted(set(points["method"]) - set(points["method"][there]))
    if not any(there):
        raise ValueError(f"no record has both {x} and {y}, so there is no point to draw")
    dense_x = 1.0 if measures[0].scale == "ratio" else dense_baseline(frame, x)[0]
    dense = dense_baseline(frame, y)
    limits = _limits(points[y][there], dense[0], measures[1], span)
    note = [
        captions.dense_dtype(frame),
        captions.coverage(frame),
        captions.same_numbers(points),
        f"without a {measures[0].heading}: {', '.join(left_out)}" if left_out else "",
    ]
    return Curves(
        points=points[there],
        seeds=frame[frame["method"].isin(points["method"][there])],
        x=x,
        y=y,
        x_measure=measures[0],
        y_measure=measures[1],
        dense_x=dense_x,
        dense=dense,
        bands=bands_of(frame, points[there], y, dense),
        styles=styles,
        limits=limits,
        title=captions.title(frame),
        note="; ".join(filter(None, note)),
    )


def _limits(y: Any, dense: float, shown: Metric, span: float | None) -> tuple[float, float] | None:
    log = shown.scale == "log"
    if span is not None:
        reach = shown.sign * span * (dense if log else 1)
        ends = dense - reach, dense + reach / 10
        return min(ends), max(ends)
    if not log:
        return None
    low, high = min([*y, dense]), max([*y, dense])
    if not low > 0:
        raise ValueError(f"{shown.heading} of {low:g} has no place on a logarithmic axis")
    high = min(high, dense * MOST_TIMES_DENSE)
    room = max(high / low, 1.1) ** ROOM
    return low / room, high * room


def draw(axes: Axes, curves: Curves, family: str | None = None) -> None:
    """All methods, or those of one family with the others in pale grey behind them."""
    _dense_line(axes, curves)
    _front_steps(axes, curves)
    for (member_of, method), line in curves.points.groupby(["family", "method"], dropna=False):
        if family is None or member_of == family:
            _method_line(axes, curves, method, line)
        elif curves.measured:
            axes.scatter(line[curves.x], line[curves.y], s=3, color="0.8", linewidths=0, zorder=1)
        else:
            axes.plot(line[curves.x], line[curves.y], color="0.8", linewidth=0.5, zorder=1)
    _rings(axes, curves, family)
    _arrows(axes, curves, family)


def finish(axes: Axes, curves: Curves) -> None:
    """Scales, limits and ticks; once for panels that share their axes."""
    ends = curves.points.filter([f"{curves.x}_low", f"{curves.x}_high"]).to_numpy().ravel()
    values = np.append(curves.seeds[curves.x].astype(float), ends)
    x = [curves.dense_x, *values[values > 0]]
    set_axis(axes.xaxis, curves.x_measure.scale, x)
    set_axis(axes.yaxis, curves.y_measure.scale, curves.limits or ())
    if curves.limits:
        axes.set_ylim(*curves.limits)


def _rings(axes: Axes, curves: Curves, family: str | None) -> None:
    front = curves.front
    shown = True if family is None else curves.points["family"] == family
    ringed = curves.points[front[:-1] & shown]
    x, y = list(ringed[curves.x]), list(ringed[curves.y])
    place = curves.dense_x, curves.dense[0]
    axes.plot(*place, "o", color="black", markersize=3, zorder=4, gid="dense point")
    if front[-1]:
        x, y = [*x, place[0]], [*y, place[1]]
    look: Any = {"facecolors": "none", "edgecolors": "black", "linewidths": 0.7}
    axes.scatter(x, y, s=42, zorder=5, gid="front", **look)


def _dense_line(axes: Axes, curves: Curves) -> None:
    mean, ends = curves.dense[0], curves.bands.dense
    axes.axhline(mean, color=DENSE, linewidth=0.9, linestyle=(0, (6, 2)), zorder=2, gid="dense")
    if np.isfinite(ends).all():
        axes.axhspan(*ends, color=DENSE, alpha=0.12, linewidth=0)


def _front_steps(axes: Axes, curves: Curves) -> None:
    """For each x the best y at that size or smaller: what the front can give."""
    front = curves.front
    x = np.append(curves.points[curves.x], curves.dense_x)[front]
    y = np.append(curves.points[curves.y], curves.dense[0])[front]
    order = np.argsort(x, kind="stable")
    axes.step(
        x[order],
        y[order],
        where="pre" if curves.x_measure.higher_is_better else "post",
        color="0.2",
        linewidth=0.7,
        linestyle=":",
        zorder=2,
        gid="front steps",
    )


def _method_line(axes: Axes, curves: Curves, method: str, line: Any) -> None:
    style, x, y = curves.styles[method], line[curves.x], line[curves.y]
    low, high = curves.bands.of(line)
    if curves.measured:
        ends = np.clip([x - line[f"{curves.x}_low"], line[f"{curves.x}_high"] - x], 0, None)
        look: Any = {"fmt": "none", "ecolor": style.colour, "elinewidth": 0.7, "alpha": 0.6}
        axes.errorbar(x, y, xerr=ends, yerr=np.clip([y - low, high - y], 0, None), **look)
    else:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.18, linewidth=0)
    single = curves.seeds[curves.seeds["method"] == method]
    axes.scatter(
        single[curves.x], single[curves.y], s=3, color=style.colour, alpha=0.45, linewidths=0
    )
    axes.plot(
        x,
        y,
        color=style.colour,
        marker=style.marker,
        linestyle=style.line,
        linewidth=0.5 if curves.measured else RC["lines.linewidth"],
        label=labelled(method),
        zorder=4,
        **style.markers(),
    )


def _arrows(axes: Axes, curves: Curves, family: str | None) -> None:
    """An arrow at the upper edge for each point above it, side by side at one size."""
    from matplotlib.transforms import ScaledTranslation

    above: Any = curves.beyond
    if family is not None:
        above = above[above["family"] == family]
    # The same on paper, if not to the last digit.
    sizes = above[curves.x].map("{:.2g}".format)
    groups = sizes.groupby(sizes)
    places = groups.cumcount() - (groups.transform("size") - 1) / 2
    figure: Any = axes.get_figure(root=True)
    for method, x, place in zip(above["method"], above[curves.x], places, strict=True):
        aside = ScaledTranslation(APART * place / 72, -BELOW / 72, figure.dpi_scale_trans)
        axes.plot(
            x,
            1.0,
            transform=axes.get_xaxis_transform() + aside,
            color=curves.styles[method].colour,
            linestyle="none",
            zorder=5,
            gid="beyond",
            **ARROW,
        )


def keys(curves: Curves) -> list:
    """Legend entries of the marks that belong to no method."""
    from matplotlib.lines import Line2D

    shown, mean, beyond = curves.y_measure, curves.dense[0], curves.beyond[curves.y]
    number = f"{100 * mean:.4g}%" if shown.scale == "percent" else f"{mean:.4g}"
    ring = {"marker": "o", "markerfacecolor": "none", "markersize": 6, "markeredgewidth": 0.7}
    handles = [
        Line2D(
            [],
            [],
            color=DENSE,
            linestyle=(0, (6, 2)),
            linewidth=0.9,
            label=f"dense model ({number})",
        ),
        Line2D([], [], color="0.2", linestyle=":", linewidth=0.7, label="Pareto front", **ring),
    ]
    if any(style.hollow for style in curves.styles.values()):
        hollow = {"marker": "s", "markerfacecolor": "white", "markersize": 4, "color": "0.2"}
        label = "hollow: tuned on data"
        handles.append(Line2D([], [], linestyle="none", label=label, **hollow, **HOLLOW))
    if len(beyond):
        most = float(f"{beyond.max():.3g}")
        label = f"above the axis, up to {most:,g}"
        handles.append(Line2D([], [], color="0.2", linestyle="none", label=label, **ARROW))
    grey: Any = {"color": "0.5", "linewidth": 0.7}
    if curves.measured:
        handles.append(Line2D([], [], marker="|", label="interval of the timing", **grey))
        bar: Any = {"linestyle": "none", "marker": "|", "markersize": 9, **grey}
    else:
        bar = {"color": "0.6", "alpha": 0.4, "linewidth": 5}
    spread = curves.bands.label(curves.points["seeds"])
    return [*handles, Line2D([], [], label=spread, **bar)] if spread else handles
