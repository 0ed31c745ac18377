"""The figure of several tasks on one base: mean quality against all stored bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank.reporting.across_tasks.scores import TaskScores
from lowrank.reporting.plots.style import COLUMN, RC, method_styles, note_below
from lowrank.reporting.plots.text import wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def tasks_figure(frame: pd.DataFrame, found: TaskScores) -> Figure:
    """One line for each method through its levels: bytes of the measured tasks, and mean quality.

    The bytes are those of the base, once, and of each task. Bars are the 95 % intervals over the
    test examples, for the same networks.

    Args:
        frame: the rows of which `found` has the scores.
    """
    import matplotlib
    from matplotlib.figure import Figure

    own, shown = found.contest, found.contest.metric
    styles, count = method_styles(frame), len(own.tasks)
    factor = 100 if shown.scale == "percent" else 1
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(COLUMN, 3.4), layout="constrained")
        axes: Any = figure.subplots()
        for method in dict.fromkeys(one.method for one in own.contenders):
            places = [n for n, one in enumerate(own.contenders) if one.method == method]
            places.sort(key=lambda n: own.contenders[n].bytes(count))
            points = [(own.contenders[n].bytes(count) / 1e6, found.of(n)) for n in places]
            style = styles[method]
            axes.errorbar(
                [size for size, _ in points],
                [factor * score.mean for _, score in points],
                yerr=[
                    [factor * (score.mean - score.low) for _, score in points],
                    [factor * (score.high - score.mean) for _, score in points],
                ],
                color=style.colour,
                marker=style.marker,
                linestyle=style.line,
                label=method,
                elinewidth=0.8,
                capsize=1.5,
                **style.markers(),
            )
        axes.set_xscale("log")
        axes.set_xlabel(f"stored megabytes of {count} tasks, the base counted once")
        axes.set_ylabel(wrapped(f"{shown.heading}, mean over {count} tasks", 2.2))
        _plain_ticks(axes)
        figure.suptitle(f"{count} tasks on one {frame['model'].iloc[0]}", fontsize=8)
        handles = axes.get_legend_handles_labels()[0]
        note = f"Means over {len(own.seeds)} seeds; bars: 95 % intervals over the test examples."
        note_below(figure, handles, note, min(3, len(handles)))
    return figure


def _plain_ticks(axes: Any) -> None:
    """Plain numbers on the logarithmic axis, between powers of ten too."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
