"""Figures of one method among all others, as SVG inside a page.

Text and axes take the colour of the page's text, so that they are read on light and on dark.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lowrank.records.columns import COSTS
from manual.measured import SweepResult

# Stands for the colour of the page's text until the SVG is written.
TEXT = "#010203"
OWN, OTHERS = "#2a7ad4", "#8888884d"
SIZE = (3.2, 2.3)  # inches; pages show it as wide as there is room
# Up to how many times the best a metric that may explode is shown.
WORST = 100
_IDS = re.compile(r' id="[a-z]+_\d+"')
_STYLE: Any = {
    **{"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 8},
    **{name: TEXT for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")},
    **{"axes.edgecolor": TEXT, "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.titlesize": 8, "axes.linewidth": 0.6},
}


def figure(result: SweepResult, method: str) -> str:
    """The curve of a method among those of all others in a sweep, as an element of SVG.

    Args:
        result: the sweep, which has points of the method.
        method: the one that is drawn in colour, with a line for each norm.
    """
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": f"{result.folder} {method}"}):
        drawn = Figure(figsize=SIZE, layout="constrained")
        _draw(drawn, result, method)
        file = io.StringIO()
        drawn.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = _IDS.sub("", text[text.index("<svg") :]).replace(TEXT, "currentColor")
    label = f"{method} among all methods of {result.folder}"
    return text.replace("<svg", f'<svg class="curve" role="img" aria-label="{label}"', 1)


def _draw(drawn: Figure, result: SweepResult, method: str) -> None:
    axes, metric, size = drawn.subplots(), result.metric, COSTS[result.size]
    points: Any = result.points
    for (name, _), curve in points.groupby(["method", "norm"], dropna=False):
        curve = curve.sort_values(result.size)
        own = name == method
        axes.plot(
            *(curve[result.size], curve[metric.name]),
            color=OWN if own else OTHERS,
            linewidth=1.8 if own else 0.8,
            marker="o" if own else "",
            markersize=3.5,
            zorder=3 if own else 1,
        )
    if size.scale in ("ratio", "bits"):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if metric.scale == "log":
        axes.set_yscale("log")
        best = points[metric.name].min()
        axes.set_ylim(0.95 * best, WORST * best)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if metric.scale == "percent":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}")
    if size.sign < 0:
        axes.invert_xaxis()
    axes.set_xlabel(size.heading)
    axes.set_ylabel(metric.heading)
    axes.set_title(result.folder)
