"""Maps of the error and the bytes of each layer of a network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lowrank.reporting import captions
from lowrank.reporting.curves import one_comparison
from lowrank.reporting.plots.style import PAGE, RC
from lowrank.reporting.plots.text import INCH, shortened, width, wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to this many layers a cell has room for its number.
MOST_NUMBERS = 12
# The longest name of a layer or a row, in inches.
LONGEST_NAME = 2.2
# About how wide a map is, in inches, and the smallest print, in points.
MAP_WIDTH, SMALLEST = 2.4, 4


def layer_figure(layers: pd.DataFrame, at: float | None = None) -> Figure:
    """Two maps of rows (a method at a level) by columns (layers, in the order of the model).

    Left the relative error of each layer's weight in the norm in which it was asked for, or in the
    identity norm where it was trained since (see `LayerReport`); right the bytes that it takes, as
    a share of its dense bytes; both are means over seeds. The bars above are the layers' dense
    bytes, so that it can be seen which layers matter for the size. A hatched cell is a layer that
    the method left as it was. A row is named by its method, level and mean compression ratio of the
    whole model, and where rows have several norms, by its own.

    Args:
        layers: rows of `lowrank.records.store.load_layers`, of one task, model and recovery.
        at: of each method show only the weakest level whose whole model is at least this many
            times smaller (methods that never are do not appear); None shows every level.

    Raises:
        ValueError: `layers` is empty or mixes tasks, models or recoveries, or no method reaches
            `at`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    one_comparison(layers)
    rows, means = _means(layers, at)
    in_order: Any = layers.sort_values("position")
    names = list(in_order["name"].drop_duplicates())
    error, share = (
        means.pivot(index="row", columns="name", values=value).reindex(
            index=range(len(rows)), columns=names
        )
        for value in ("error", "share")
    )
    dense = in_order.groupby("name")["dense_bytes"].first().reindex(names)
    look: Any = {**RC, "axes.grid": False}
    with matplotlib.rc_context(look):
        shown = [shortened(name, LONGEST_NAME, 7) for name in names]
        height = 1.8 + 0.16 * len(rows) + max(width(name, 7) for name in shown) / INCH
        figure = Figure(figsize=(PAGE, height), layout="constrained")
        grid: Any = figure.subplots(
            2, 2, sharex=True, height_ratios=(0.45, 0.16 * len(rows)), squeeze=False
        )
        for axes in grid[0]:
            _bars(axes, dense)
        grid[0][0].set_ylabel("dense\nKiB")
        _map(
            grid[1][0], error, _error_title(means, bool(layers["tuned"].any())), "Oranges", "{:.2g}"
        )
        _map(grid[1][1], share, "bytes, % of the layer's dense bytes", "Blues", "{:.0f}")
        for axes, texts in ((grid[1][0], rows), (grid[1][1], [""] * len(rows))):
            _name_columns(axes, shown)
            axes.set_yticks([row + 0.5 for row in range(len(rows))], texts)
        # Beside the whole figure: a few rows are lower than the label is long.
        figure.supylabel("method, level (compression ratio)", fontsize=RC["axes.labelsize"])
        title = wrapped(f"{captions.title(layers)}: layers", PAGE - 0.3)
        figure.suptitle(title, fontsize=RC["axes.titlesize"])
    return figure


def _means(layers: Any, at: float | None) -> tuple[list[str], pd.DataFrame]:
    """The names of the rows, by family, method and ratio, and their layers' means over seeds."""
    by = ["family", "method", "level", "point"]
    records = layers.drop_duplicates([*by, "key"])
    points = records.groupby(by, dropna=False)["compression_ratio"].mean().reset_index()
    points = points.sort_values(["family", "method", "compression_ratio"])
    if at is not None:
        reached = points["compression_ratio"].max()
        points = points[points["compression_ratio"] >= at].drop_duplicates("method")
        if points.empty:
            raise ValueError(
                f"no method makes the whole model {at:g}× smaller; the strongest reaches "
                f"{reached:.3g}×"
            )
    points["row"] = range(len(points))
    chosen = layers.merge(points[["method", "point", "row"]], on=["method", "point"])
    # A recovery that trains leaves no error in a norm of data.
    unknown = chosen.groupby("row")["norm_error"].transform(lambda own: own.isna().any())
    chosen["error"] = chosen["norm_error"].mask(unknown, chosen["relative_error"])
    chosen["norm"] = chosen["norm"].mask(unknown, "identity")
    chosen["share"] = 100 * chosen["bytes"] / chosen["dense_bytes"]
    means = chosen.groupby(["row", "name"], sort=False)[["error", "share"]].mean()
    norms = chosen.groupby("row")["norm"].agg(lambda own: "/".join(sorted(own.unique())))
    several = norms.nunique() > 1
    rows = [
        _row_name(method, level, norm if several else "", ratio)
        for (method, level, ratio), norm in zip(
            points[["method", "level", "compression_ratio"]].values, norms, strict=True
        )
    ]
    return rows, means.reset_index().assign(norm=lambda made: made["row"].map(norms))


def _row_name(method: str, level: float, norm: str, ratio: float) -> str:
    known = norm == "" or f"({norm}" in method
    end = f"{f' {level:g}' if level == level and level is not None else ''}"
    end += f"{'' if known else f', {norm}'} ({ratio:.3g}×)"
    return shortened(method, LONGEST_NAME - width(end, 7) / INCH, 7) + end


def _error_title(means: Any, trained: bool) -> str:
    """The title of the error, which names the norm and the weight that it is relative to."""
    norms = list(means["norm"].unique())
    inner = "the norm of its row" if len(norms) > 1 else f"the {norms[0]} norm"
    named = "" if norms == ["identity"] else f" in {inner}"
    before = ", W before training" if trained else ""
    return wrapped(f"relative error ‖W − Ŵ‖ / ‖W‖{named}{before}", PAGE / 2 - 0.5)


def _name_columns(axes: Axes, names: list[str]) -> None:
    """In print as small as it must be, and where that is too small, every second or third."""
    room = MAP_WIDTH * INCH / len(names)
    step = math.ceil(SMALLEST / room)
    places = range(0, len(names), step)
    axes.set_xticks([place + 0.5 for place in places], [names[place] for place in places])
    upright = max(map(len, names)) > 3
    size = max(SMALLEST, min(7, room * step)) if upright else 7
    axes.tick_params(axis="x", labelrotation=90 if upright else 0, labelsize=size)


def _bars(axes: Axes, dense: pd.Series) -> None:
    centres = [index + 0.5 for index in range(len(dense))]
    axes.bar(centres, [size / 1024 for size in dense], color="0.45", width=0.8)
    axes.tick_params(bottom=False, labelbottom=False)
    axes.locator_params(axis="y", nbins=3)


def _map(axes: Axes, values: pd.DataFrame, title: str, colours: str, form: str) -> None:
    from matplotlib.colors import Normalize

    rows, columns = values.shape
    norm = Normalize(0, float(values.max(axis=None)) or 1.0)
    axes.fill([0, columns, columns, 0], [0, 0, rows, rows], "0.93", hatch="////", edgecolor="0.7")
    image = axes.pcolormesh(
        values.to_numpy(), cmap=colours, norm=norm, edgecolors="white", linewidth=0.4
    )
    axes.set_ylim(rows, 0)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, location="bottom", aspect=40, shrink=0.9)
    bar.set_label(title)
    bar.outline.set_visible(False)  # type: ignore[operator]
    if columns <= MOST_NUMBERS:
        _numbers(axes, values, norm, form)


def _numbers(axes: Axes, values: pd.DataFrame, norm: Any, form: str) -> None:
    for row, of_row in enumerate(values.to_numpy()):
        for column, value in enumerate(of_row):
            if value == value:  # NaN: the layer was left as it was
                ink = "white" if norm(value) > 0.6 else "black"
                place = (column + 0.5, row + 0.5)
                axes.text(*place, form.format(value), ha="center", va="center", color=ink, size=6)
