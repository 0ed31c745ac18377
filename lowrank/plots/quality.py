"""Quality against what a compressed model costs: the curves of a compression paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lowrank.plots.panel import Curves, curves_of, draw, finish, keys
from lowrank.plots.style import COLUMN, PAGE, RC, Style, family_styles, legend_above, method_styles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More lines than this in one pair of axes cannot be told apart in print.
MOST_LINES = 6
# Names up to this long fit twice into the width of a panel.
MOST_LETTERS = 28


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
    the black point at its own size and the grey horizontal line, with its own band. Ringed points
    are on the Pareto front of all that is shown, the dense model included; the dotted steps show
    the best y to be had at each size or smaller.

    A perplexity has a logarithmic axis that ends at 100 times the dense model's; arrows at the edge
    stand for the points above it, and the legend says how far they go.

    Up to 6 methods share one pair of axes of the width of a column. More are split into a panel per
    family, the width of a page, each with all other methods in pale grey.

    Args:
        frame: rows of `lowrank.results.load`, of one task, model and recovery.
        x: a ratio: ``compression_ratio``, ``param_ratio``, ``theoretical_speedup``,
            ``speedup_b1``, …; or ``layers_bits_per_weight``.
        y: a measure of quality that the dense model has too.
        styles: by method; by default those of this figure's own methods.
        span: a close-up: how far from the dense model y may lie to be shown, in units of y; on a
            logarithmic axis as a share of the dense model's y.

    Raises:
        ValueError: as `lowrank.curves.summarise`; or `span` is not above 0.
    """
    import matplotlib
    from matplotlib.figure import Figure

    families = sorted(frame["family"].unique())
    split = len(frame["method"].unique()) > MOST_LINES and len(families) > 1
    panels: list[str | None] = list(families) if split else [None]
    styles = styles or (family_styles if split else method_styles)(frame)
    curves = curves_of(frame, x, y, styles, span)
    with matplotlib.rc_context(RC):
        rows, columns = _grid(len(panels))
        size = (PAGE, 0.6 + 1.9 * rows) if split else (COLUMN, 3.3)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        cells = list(grid.flat)
        for axes, family in zip(cells, panels, strict=False):
            draw(axes, curves, family)
            if family is not None:
                handles, names = axes.get_legend_handles_labels()
                legend_above(axes, family, handles, columns=_columns(names))
        for axes in cells[len(panels) :]:
            axes.remove()
        finish(cells[0], curves)
        _label(figure, cells[: len(panels)], curves, columns)
    return figure


def _grid(panels: int) -> tuple[int, int]:
    columns = min(panels, 2)
    return -(-panels // columns), columns


def _columns(names: Sequence[str]) -> int:
    """Of a legend with these names."""
    return 1 if max(map(len, names)) > MOST_LETTERS else 2


def _label(figure: Figure, panels: list[Axes], curves: Curves, columns: int) -> None:
    marks = keys(curves)
    if len(panels) == 1:
        panels[0].set_xlabel(curves.x_measure.title)
        panels[0].set_ylabel(curves.y_measure.title)
        handles = [*panels[0].get_legend_handles_labels()[0], *marks]
        columns = _columns([str(handle.get_label()) for handle in handles])
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        return
    for axes in panels[-columns:]:
        axes.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel(curves.x_measure.title, fontsize=RC["axes.labelsize"])
    figure.supylabel(curves.y_measure.title, fontsize=RC["axes.labelsize"])
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks))
