"""The figure of all methods by family and norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lowrank.reporting.curves import first_measure, in_several_norms, norms_in_order
from lowrank.reporting.plots.panel import curves_of, draw, finish, keys
from lowrank.reporting.plots.style import PAGE, RC, legend_above, norm_styles, note_below
from lowrank.reporting.plots.text import labelled, shortened, wrapped

# Heights in inches: of the axes, of a line of a legend.
AXES_HEIGHT, LINE_HEIGHT = 2.6, 0.135

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def norm_figure(
    frame: pd.DataFrame,
    x: str = "layers_bits_per_weight",
    y: str | None = None,
    span: float | None = None,
) -> Figure:
    """Every method of the families that were compressed in more than one norm, in one pair of axes.

    The colour says the family; dashes and marker say the norm, from dots (identity) over dashes
    (diagonal) to a full line (full). The rest is as in `quality_curve`.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        x: a ratio or ``layers_bits_per_weight``.
        y: a measure of quality that the dense model has too; that by which the task judges, if not
            given.
        span: as of `quality_curve`.

    Raises:
        ValueError: as `quality_curve`; or no family was compressed in more than one norm.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown: Any = in_several_norms(frame)
    curves = curves_of(shown, x, y or first_measure(shown), norm_styles(shown), span)
    shown = shown[shown["method"].isin(curves.points["method"])]
    families = sorted(shown["family"].unique())
    inches = (PAGE - 0.6) / len(families)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(PAGE, 4.2), layout="constrained")
        axes = figure.subplots()
        draw(axes, curves)
        finish(axes, curves)
        axes.set_xlabel(wrapped(curves.x_measure.title, PAGE - 0.8))
        axes.set_ylabel(wrapped(curves.y_measure.title, AXES_HEIGHT))
        drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        lines = 0
        for index, family in enumerate(families):
            handles = _named(drawn, shown[shown["family"] == family], inches)
            name = shortened(family, inches - 0.1)
            legend_above(axes, name, handles, left=index / len(families))
            lines = max(lines, 1 + len(handles))
        title = wrapped(curves.title, PAGE - 0.3)
        figure.suptitle(title, fontsize=RC["axes.titlesize"])
        marks = keys(curves)
        lines += note_below(figure, marks, curves.note, len(marks)) + title.count("\n")
        figure.set_figheight(AXES_HEIGHT + 0.9 + LINE_HEIGHT * lines)
    return figure


def _named(drawn: Mapping[str, Any], own: Any, inches: float) -> list[Any]:
    """The lines of a family, with the names that they get in its legend, norm by norm."""
    handles = []
    for norm in norms_in_order(own["norm"]):
        for method in sorted(own["method"][own["norm"] == norm].unique()):
            line, name = drawn[labelled(method)], f"{norm}: {method.removesuffix(f' ({norm})')}"
            line.set_label(shortened(name, inches - 0.45, RC["legend.fontsize"]))
            handles.append(line)
    return handles
