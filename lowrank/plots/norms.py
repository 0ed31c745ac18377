"""All methods by family and norm in one picture: what knowing the inputs buys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank.curves import in_several_norms, norms_in_order
from lowrank.plots.panel import curves_of, draw, finish, keys
from lowrank.plots.style import PAGE, RC, legend_above, norm_styles

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def norm_figure(
    frame: pd.DataFrame,
    x: str = "layers_bits_per_weight",
    y: str = "perplexity",
    span: float | None = None,
) -> Figure:
    """Every method of the families that were compressed in more than one norm, in one pair of axes.

    The colour says the family; dashes and marker say the norm, from dots (identity) over dashes
    (diagonal) to a full line (full). The rest is as in `quality_curve`.

    Args:
        frame: rows of `lowrank.results.load`, of one task, model and recovery.
        x: a ratio or ``layers_bits_per_weight``.
        y: a measure of quality that the dense model has too.
        span: as of `quality_curve`.

    Raises:
        ValueError: as `quality_curve`; or no family was compressed in more than one norm.
    """
    import matplotlib
    from matplotlib.figure import Figure

    shown: Any = in_several_norms(frame)
    curves = curves_of(shown, x, y, norm_styles(shown), span)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(PAGE, 4.2), layout="constrained")
        axes = figure.subplots()
        draw(axes, curves)
        finish(axes, curves)
        axes.set_xlabel(curves.x_measure.title)
        axes.set_ylabel(curves.y_measure.title)
        drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        families = sorted(shown["family"].unique())
        for index, family in enumerate(families):
            own = shown[shown["family"] == family]
            handles = []
            for norm in norms_in_order(own["norm"]):
                for method in sorted(own["method"][own["norm"] == norm].unique()):
                    drawn[method].set_label(f"{norm}: {method.removesuffix(f' ({norm})')}")
                    handles.append(drawn[method])
            legend_above(axes, family, handles, left=index / len(families))
        figure.legend(handles=(marks := keys(curves)), loc="outside lower center", ncols=len(marks))
    return figure
