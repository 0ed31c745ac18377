"""The figure of quality against the cost of a compressed model, one curve per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lowrank.reporting.curves import first_measure
from lowrank.reporting.plots.panel import Curves, curves_of, draw, finish, keys
from lowrank.reporting.plots.style import (
    COLUMN,
    PAGE,
    RC,
    Style,
    family_styles,
    legend_above,
    method_styles,
    note_below,
)
from lowrank.reporting.plots.text import INCH, shortened, width, wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More lines than this in one pair of axes are not distinguishable in print.
MOST_LINES = 6
# Heights in inches: of the axes, of a line of a legend, of everything around them.
AXES_HEIGHT, LINE_HEIGHT, AROUND = 1.9, 0.135, 0.8
# Beside the labels of an axis, and beside the handle of a legend's entry.
BESIDE_AXES, BESIDE_NAME = 0.8, 0.55
LEGEND_POINTS: float = RC["legend.fontsize"]


def quality_curve(
    frame: pd.DataFrame,
    x: str = "compression_ratio",
    y: str | None = None,
    styles: Mapping[str, Style] | None = None,
    span: float | None = None,
) -> Figure:
    """One line per method through its levels, from weak to strong compression.

    A line goes through the means over seeds of x and of y. The band is the 95 % interval of y over
    the test examples, for the same networks, and the small points are the single seeds; where the
    outcomes of single examples are not on record, the band is ± one standard deviation over seeds.
    Where `x` is a measured speedup, whose noise would turn lines and bands into knots, the line is
    thin and bars take the band's place, along x from the mean low to the mean high. The dense model
    is the black point at its own size and the grey horizontal line, with its own band. Ringed
    points are on the Pareto front of all that is shown, the dense model included; the dotted steps
    show the best y to be had at each size or smaller.

    A metric of logarithmic scale has such an axis, which ends at 100 times the dense model's;
    arrows at the edge stand for the points above it, and the legend says how far they go.

    Up to 6 methods share one pair of axes of the width of a column. More are split into a panel per
    family, the width of a page, each with all other methods in pale grey. Below stands what else
    must be known: the dtype of the dense model, how much of it was compressed, which seeds repeated
    nothing, and which methods have no x, such as those without a speedup.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        x: a ratio: ``compression_ratio``, ``param_ratio``, ``theoretical_speedup``,
            ``speedup_b1``, …; or ``layers_bits_per_weight``.
        y: a measure of quality that the dense model has too; that by which the task judges, if not
            given.
        styles: by method; by default those of this figure's own methods.
        span: a close-up: how far from the dense model y may lie to be shown, in units of y; on a
            logarithmic axis as a share of the dense model's y.

    Raises:
        ValueError: as `lowrank.reporting.curves.summarise`; or `span` is not above 0.
    """
    import matplotlib
    from matplotlib.figure import Figure

    curves = curves_of(frame, x, y or first_measure(frame), styles or {}, span)
    families = sorted(curves.points["family"].unique())
    split = curves.points["method"].nunique() > MOST_LINES and len(families) > 1
    if styles is None:
        curves = replace(curves, styles=(family_styles if split else method_styles)(frame))
    panels: list[str | None] = list(families) if split else [None]
    with matplotlib.rc_context(RC):
        rows, columns = _grid(len(panels))
        figure = Figure(figsize=(PAGE if split else COLUMN, 3), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        cells = list(grid.flat)
        for axes in cells[len(panels) :]:
            axes.remove()
        lines = [_panel(*one, curves) for one in zip(cells, panels, strict=False)]
        finish(cells[0], curves)
        height = rows * (AXES_HEIGHT + LINE_HEIGHT * max(lines))
        _label(figure, cells[: len(panels)], curves, height)
    return figure


def _panel(axes: Axes, family: str | None, curves: Curves) -> int:
    """All methods, or those of one family with a legend above; the lines that it takes."""
    draw(axes, curves, family)
    if family is None:
        return 0
    inches = PAGE / 2 - BESIDE_AXES
    handles = _shortened(axes.get_legend_handles_labels()[0], inches)
    across = _columns(handles, inches)
    legend_above(axes, shortened(family, inches), handles, columns=across)
    return 1 - (-len(handles) // across)


def _grid(panels: int) -> tuple[int, int]:
    columns = min(panels, 2)
    return -(-panels // columns), columns


def _label(figure: Figure, panels: list[Axes], curves: Curves, height: float) -> None:
    """Title, names of the axes, legend, and how high all is with panels of `height` inches."""
    inches = figure.get_size_inches()[0]
    rows, columns = _grid(len(panels))
    for axes in panels[-columns:]:
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_xlabel(wrapped(curves.x_measure.title, inches / columns - BESIDE_AXES))
    title = wrapped(curves.title, inches - 0.3)
    figure.suptitle(title, fontsize=RC["axes.titlesize"])
    beside = wrapped(curves.y_measure.title, height)
    if len(panels) == 1:
        panels[0].set_ylabel(beside)
    else:
        figure.supylabel(beside, fontsize=RC["axes.labelsize"])
    own = panels[0].get_legend_handles_labels()[0] if len(panels) == 1 else []
    handles = _shortened([*own, *keys(curves)], inches)
    below = note_below(figure, handles, curves.note, _columns(handles, inches))
    lines = below + title.count("\n") + rows
    figure.set_size_inches(inches, height + AROUND + LINE_HEIGHT * lines)


def _shortened(handles: Sequence[Artist], inches: float) -> list[Artist]:
    """The handles of a legend, their names no longer than it is wide."""
    for handle in handles:
        name = str(handle.get_label())
        handle.set_label(shortened(name, inches - BESIDE_NAME, LEGEND_POINTS))
    return list(handles)


def _columns(handles: Sequence[Artist], inches: float) -> int:
    """Of a legend of that width, as many as its longest name leaves room for; at most 5."""
    most = max((width(str(handle.get_label()), LEGEND_POINTS) for handle in handles), default=0)
    return max(1, min(5, len(handles), int(inches / (most / INCH + BESIDE_NAME))))
