"""Quality against what a compressed model costs: the curves of a compression paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.curves import dense_baseline, pareto_front, summarise
from lowrank.plots.style import (
    COLUMN,
    DENSE,
    PAGE,
    RC,
    Measure,
    Style,
    family_styles,
    measure,
    method_styles,
    set_percent_axis,
    set_ratio_axis,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More lines than this in one pair of axes cannot be told apart in print.
MOST_LINES = 6


@dataclass(frozen=True)
class _Curves:
    """What every panel of one figure draws from."""

    points: Any  # one row per method and level: means and spreads
    seeds: Any  # one row per record
    x: str
    y: str
    x_measure: Measure
    y_measure: Measure
    dense: tuple[float, float]
    front: np.ndarray
    styles: Mapping[str, Style]

    @property
    def measured(self) -> bool:
        """Whether x is a measured speedup, which has a spread of its own."""
        return f"{self.x}_low" in self.points


def quality_curve(
    frame: pd.DataFrame,
    x: str = "compression_ratio",
    y: str = "top1",
    styles: Mapping[str, Style] | None = None,
    span: float | None = None,
) -> Figure:
    """One line per method through its levels, from weak to strong compression.

    A line goes through the means over seeds of x and of y; the band is ± one standard deviation
    over seeds, and the small points are the single seeds. Where `x` is a measured speedup, whose
    noise would turn lines and bands into knots, the line is thin and bars take the band's place:
    along y ± one standard deviation, along x from the mean low to the mean high. The dense model is
    the black point at 1× and the grey horizontal line, with its own band. Ringed points are on the
    Pareto front of all that is shown, the dense model included; the dotted steps show the best y to
    be had at each x or more.

    Up to 6 methods share one pair of axes of the width of a column. More are split into a panel per
    family, the width of a page, each with all other methods in pale grey.

    Args:
        frame: rows of `lowrank.results.load`, of one task, model and recovery.
        x: a ratio: ``compression_ratio``, ``param_ratio``, ``theoretical_speedup``,
            ``speedup_b1``, …
        y: a measure of quality that the dense model has too.
        styles: by method; by default those of this figure's own methods.
        span: a close-up: how far from the dense model y may lie, in units of y, to be shown.

    Raises:
        ValueError: as `lowrank.curves.summarise`; or `span` is not above 0.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if span is not None and not span > 0:
        raise ValueError(f"span={span} must be above 0: how far below the dense model to look")
    columns = [x, y, *(name for name in (f"{x}_low", f"{x}_high") if name in frame)]
    points: Any = summarise(frame, columns)
    dense = dense_baseline(frame, y)
    titles = measure(frame, x), measure(frame, y)
    families = list(dict.fromkeys(points["family"]))
    split = points["method"].nunique() > MOST_LINES and len(families) > 1
    panels: list[str | None] = list(families) if split else [None]
    styles = styles or (family_styles if split else method_styles)(frame)
    front = _front(points[x], points[y], dense[0], titles[1].higher_is_better)
    curves = _Curves(points, frame, x, y, *titles, dense, front, styles)
    with matplotlib.rc_context(RC):
        rows, columns_ = _grid(len(panels))
        size = (PAGE, 0.6 + 1.9 * rows) if split else (COLUMN, 3.3)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns_, sharex=True, sharey=True, squeeze=False)
        cells = list(grid.flat)
        for axes, family in zip(cells, panels, strict=False):
            _panel(axes, curves, family)
        for axes in cells[len(panels) :]:
            axes.remove()
        _label(figure, cells[: len(panels)], curves, columns_)
        if span is not None:
            _close_up(cells[0], dense[0], span if titles[1].higher_is_better else -span)
    return figure


def _grid(panels: int) -> tuple[int, int]:
    columns = min(panels, 2)
    return -(-panels // columns), columns


def _front(x: Any, y: Any, dense: float, higher_is_better: bool) -> np.ndarray:
    """Which points are on the front, and last whether the dense model, at ratio 1, is."""
    with_dense = np.append(x, 1.0), np.append(y, dense)
    return pareto_front(*with_dense, higher_is_better=higher_is_better)


def _panel(axes: Axes, curves: _Curves, family: str | None) -> None:
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
    if family is not None:
        _panel_legend(axes, family)


def _rings(axes: Axes, curves: _Curves, family: str | None) -> None:
    shown = True if family is None else curves.points["family"] == family
    ringed = curves.points[curves.front[:-1] & shown]
    x, y = list(ringed[curves.x]), list(ringed[curves.y])
    axes.plot(1.0, curves.dense[0], "o", color="black", markersize=3, zorder=4, gid="dense point")
    if curves.front[-1]:
        x, y = [*x, 1.0], [*y, curves.dense[0]]
    look: Any = {"facecolors": "none", "edgecolors": "black", "linewidths": 0.7}
    axes.scatter(x, y, s=42, zorder=5, gid="front", **look)


def _panel_legend(axes: Axes, family: str) -> None:
    """Above the panel, where no curve can run under it."""
    names = axes.get_legend_handles_labels()[1]
    legend = axes.legend(
        title=family,
        title_fontproperties={"weight": "bold", "size": RC["axes.titlesize"]},
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(-0.03, 0.99),
        ncols=2 if max(map(len, names)) <= 28 else 1,
        columnspacing=1.0,
        labelspacing=0.25,
    )
    legend.set_in_layout(True)


def _dense_line(axes: Axes, curves: _Curves) -> None:
    mean, spread = curves.dense
    axes.axhline(mean, color=DENSE, linewidth=0.9, linestyle=(0, (6, 2)), zorder=2, gid="dense")
    if np.isfinite(spread):
        axes.axhspan(mean - spread, mean + spread, color=DENSE, alpha=0.12, linewidth=0)


def _front_steps(axes: Axes, curves: _Curves) -> None:
    """For each x the best y at that x or more: what the front can give."""
    x = np.append(curves.points[curves.x], 1.0)[curves.front]
    y = np.append(curves.points[curves.y], curves.dense[0])[curves.front]
    order = np.argsort(x, kind="stable")
    axes.step(
        x[order],
        y[order],
        where="pre",
        color="0.2",
        linewidth=0.7,
        linestyle=":",
        zorder=2,
        gid="front steps",
    )


def _method_line(axes: Axes, curves: _Curves, method: str, line: Any) -> None:
    style, x, y = curves.styles[method], line[curves.x], line[curves.y]
    spread = line[f"{curves.y}_std"]
    if curves.measured:
        ends = np.clip([x - line[f"{curves.x}_low"], line[f"{curves.x}_high"] - x], 0, None)
        look: Any = {"fmt": "none", "ecolor": style.colour, "elinewidth": 0.7, "alpha": 0.6}
        axes.errorbar(x, y, xerr=ends, yerr=spread, **look)
    else:
        axes.fill_between(x, y - spread, y + spread, color=style.colour, alpha=0.18, linewidth=0)
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
        markeredgecolor="white",
        markeredgewidth=0.4,
        label=method,
        zorder=4,
    )


def _close_up(axes: Axes, dense: float, span: float) -> None:
    """Show `span` on the worse side of the dense model, and on the better a tenth of it."""
    ends = dense - span, dense + span / 10
    axes.set_ylim(min(ends), max(ends))


def _label(figure: Figure, panels: list[Axes], curves: _Curves, columns: int) -> None:
    set_ratio_axis(panels[0].xaxis, [1.0, *curves.seeds[curves.x].dropna()])
    if curves.y_measure.percent:
        set_percent_axis(panels[0])
    keys = _keys(curves)
    if len(panels) == 1:
        panels[0].set_xlabel(curves.x_measure.title)
        panels[0].set_ylabel(curves.y_measure.title)
        handles = [*panels[0].get_legend_handles_labels()[0], *keys]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        return
    for axes in panels[-columns:]:
        axes.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel(curves.x_measure.title, fontsize=RC["axes.labelsize"])
    figure.supylabel(curves.y_measure.title, fontsize=RC["axes.labelsize"])
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))


def _keys(curves: _Curves) -> list:
    """What the marks that belong to no method mean."""
    from matplotlib.lines import Line2D

    seeds = curves.seeds["seed"].nunique()
    dense = f"dense model ({100 * curves.dense[0]:.4g}%)"
    if not curves.y_measure.percent:
        dense = f"dense model ({curves.dense[0]:.3g})"
    ring = {"marker": "o", "markerfacecolor": "none", "markersize": 6, "markeredgewidth": 0.7}
    keys = [
        Line2D([], [], color=DENSE, linestyle=(0, (6, 2)), linewidth=0.9, label=dense),
        Line2D([], [], color="0.2", linestyle=":", linewidth=0.7, label="Pareto front", **ring),
    ]
    spread = f"± 1 std, {seeds} seeds"
    if curves.measured:
        label = "low to high of the timing" + (f"; {spread}" if seeds > 1 else "")
        return [*keys, Line2D([], [], color="0.5", linewidth=0.7, marker="|", label=label)]
    band = Line2D([], [], color="0.6", alpha=0.4, linewidth=5, label=spread)
    return [*keys, band] if seeds > 1 else keys
