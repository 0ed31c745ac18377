"""The break-even figure: the speed-up of a layer over dense, by rank, sparsity, bits and shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank.execution.plan import DENSE_KERNELS
from lowrank.reporting.plots.style import COLOURS, LINES, MARKERS, PAGE, RC

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each family's own axis: its name, and whether the settings are shares shown in percent.
AXES = {
    "low rank": ("rank / width", True),
    "sparse": ("zeros", True),
    "quantized": ("bits per weight", False),
}


def break_even(frame: pd.DataFrame, note: str = "") -> Figure:
    """The speed-up of each compression, a row of panels for each family, a panel for each shape.

    A curve is one batch size. The speed-up is that over the fastest dense product in any layout,
    so that it is what the compression brings and not what another layout would bring a dense layer,
    too. Hollow markers are layers that run as a dense product, because nothing was faster.

    Args:
        frame: columns family, shape (text, in the order of the panels), batch, setting (rank over
            width, share of zeros, bits), over_best_dense, kernel.
        note: a line below the figure, such as the machine.

    Raises:
        ValueError: there is no row, or a family that the figure does not know.
    """
    import matplotlib
    from matplotlib.figure import Figure

    unknown = sorted(set(frame["family"]) - set(AXES))
    if frame.empty or unknown:
        raise ValueError(f"nothing to draw: {len(frame)} rows, families not known {unknown}")
    families = [family for family in AXES if family in set(frame["family"])]
    shapes = list(dict.fromkeys(frame["shape"]))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(PAGE, 1.9 * len(families) + 0.4), layout="constrained")
        grid: Any = figure.subplots(len(families), len(shapes), squeeze=False, sharey="row")
        for row, family in enumerate(families):
            for column, shape in enumerate(shapes):
                part: Any = frame[(frame["family"] == family) & (frame["shape"] == shape)]
                _panel(grid[row, column], part, *AXES[family])
                grid[row, column].set_title(f"{family}, {shape}")
            grid[row, 0].set_ylabel("speed-up over the\nfastest dense product")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(handles))
        if note:
            figure.supxlabel(note, fontsize=6, color="0.4")
    return figure


def _panel(axes: Axes, part: pd.DataFrame, label: str, is_share: bool) -> None:
    for index, (batch, curve) in enumerate(part.groupby("batch")):
        curve = curve.sort_values("setting")
        positions = range(len(curve))
        colour = COLOURS[index % len(COLOURS)]
        marker, speedups = MARKERS[index % len(MARKERS)], curve["over_best_dense"]
        axes.plot(
            *(positions, speedups),
            color=colour,
            linestyle=LINES[index % len(LINES)],
            marker=marker,
            label=f"batch {batch}",
        )
        for place, speedup, kernel in zip(positions, speedups, curve["kernel"], strict=True):
            if kernel in DENSE_KERNELS:
                axes.plot(place, speedup, marker=marker, color=colour, markerfacecolor="white")
    settings = sorted(part["setting"].unique())
    texts = [f"{100 * value:.3g}%" if is_share else f"{value:g}" for value in settings]
    axes.set_xticks(range(len(settings)), texts)
    axes.set_xlabel(label)
    axes.axhline(1, color="0.35", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
