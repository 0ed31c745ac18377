"""Where in a network the error arises and the bytes are spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank.curves import one_comparison
from lowrank.plots.style import PAGE, RC

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to this many layers a cell has room for its number.
MOST_NUMBERS = 12


def layer_figure(layers: pd.DataFrame, at: float | None = None) -> Figure:
    """Two maps of rows (a method at a level) by columns (layers, in the order of the model).

    Left the relative error of each layer's weight, right the bytes that it takes, as a share of its
    dense bytes; both are means over seeds. The bars above are the layers' dense bytes, so that it
    can be seen which layers matter for the size. A hatched cell is a layer that the method left as
    it was. A row is named by its method, level and mean compression ratio of the whole model.

    Args:
        layers: rows of `lowrank.results.load_layers`, of one task, model and recovery.
        at: of each method show only the weakest level whose whole model is at least this many
            times smaller (methods that never are do not appear); None shows every level.

    Raises:
        ValueError: `layers` is empty or mixes tasks, models or recoveries, or no method reaches
            `at`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    one_comparison(layers)
    means: Any = _means(layers, at)
    rows = list(dict.fromkeys(means["row"]))
    in_order: Any = layers.sort_values("position")
    names = list(in_order["name"].drop_duplicates())
    error, share = (
        means.pivot(index="row", columns="name", values=value).reindex(index=rows, columns=names)
        for value in ("relative_error", "share")
    )
    dense = in_order.groupby("name")["dense_bytes"].first().reindex(names)
    look: Any = {**RC, "axes.grid": False}
    with matplotlib.rc_context(look):
        height = 1.5 + 0.16 * len(rows) + 0.055 * max(map(len, names))
        figure = Figure(figsize=(PAGE, height), layout="constrained")
        grid: Any = figure.subplots(
            2, 2, sharex=True, height_ratios=(0.45, 0.16 * len(rows)), squeeze=False
        )
        for axes in grid[0]:
            _bars(axes, dense)
        grid[0][0].set_ylabel("dense\nKiB")
        _map(grid[1][0], error, "relative error  ‖W − Ŵ‖ / ‖W‖", "Oranges", "{:.2g}")
        _map(grid[1][1], share, "bytes, % of the layer's dense bytes", "Blues", "{:.0f}")
        # Beside the whole figure: a few rows are lower than the label is long.
        figure.supylabel("method, level (compression ratio)", fontsize=RC["axes.labelsize"])
        grid[1][1].set_yticklabels([])
    return figure


def _means(layers: Any, at: float | None) -> pd.DataFrame:
    """Mean over seeds of each row's layers, rows ordered by family, method and ratio."""
    by = ["family", "method", "level", "point"]
    ratios = layers.drop_duplicates([*by, "seed"]).groupby(by, dropna=False)["compression_ratio"]
    points = ratios.mean().reset_index().sort_values(["family", "method", "compression_ratio"])
    if at is not None:
        points = points[points["compression_ratio"] >= at].drop_duplicates("method")
        if points.empty:
            raise ValueError(
                f"no method makes the whole model {at:g}× smaller; the strongest reaches "
                f"{ratios.mean().max():.3g}×"
            )
    points["row"] = [
        f"{method} {level:g} ({ratio:.3g}×)"
        for method, level, ratio in points[["method", "level", "compression_ratio"]].values
    ]
    chosen = points[[*by, "row"]].merge(layers, on=by)
    chosen["share"] = 100 * chosen["bytes"] / chosen["dense_bytes"]
    return (
        chosen.groupby(["row", "name"], sort=False)[["relative_error", "share"]]
        .mean()
        .reset_index()
    )


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
    axes.set_xticks(
        [column + 0.5 for column in range(columns)],
        values.columns,
        rotation=90 if max(map(len, values.columns)) > 3 else 0,
    )
    axes.set_yticks([row + 0.5 for row in range(rows)], values.index)
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
