"""The figure of quality against cost for a paper: a column wide, with direct labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lowrank.files.atomic import replacing
from lowrank.files.paths import as_path
from lowrank.reporting.curves import first_measure
from lowrank.reporting.plots.direct import add_labels, spread
from lowrank.reporting.plots.panel import Curves, curves_of, draw, finish, keys
from lowrank.reporting.plots.style import RC, Style, family_styles, method_styles
from lowrank.reporting.plots.text import INCH, shortened, wrapped
from lowrank.reporting.plots.text import width as width_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of a two-column paper, in inches.
WIDTHS: Mapping[str, float] = {"column": 3.3, "page": 6.9}
# In inches, and in points of print.
LEAST_WIDTH, LEAST_FONT, MOST_FONT = 2.0, 5.0, 16.0
# Lines with direct labels that can be told apart in one pair of axes.
MOST_LABELLED = 8
# In inches: a pair of axes alone and one of several, with its label; and the share of the width
# that names may take.
ALONE, OF_SEVERAL, PANEL_WIDTH, MOST_NAME = 1.9, 0.95, 3.2, 0.36

Width = Literal["column", "page"] | float


@dataclass(frozen=True)
class Paper:
    """The size of a figure in print.

    Args:
        width: ``column`` (3.3 inches), ``page`` (6.9 inches), or inches.
        font_size: points; ticks, labels of lines and the legend are a point smaller.

    Raises:
        ValueError: a width below 2 inches, or print below 5 or above 16 points.
    """

    width: Width = "column"
    font_size: float = 8

    def __post_init__(self) -> None:
        named = isinstance(self.width, str) and self.width in WIDTHS
        if not named and not (_is_number(self.width) and LEAST_WIDTH <= self.inches <= 100):
            raise ValueError(
                f"width={self.width!r} must be {' or '.join(WIDTHS)}, or inches from "
                f"{LEAST_WIDTH:g} to 100"
            )
        if not _is_number(self.font_size) or not LEAST_FONT <= self.font_size <= MOST_FONT:
            raise ValueError(
                f"font_size={self.font_size!r} must be points of print from {LEAST_FONT:g} to "
                f"{MOST_FONT:g}"
            )

    @property
    def inches(self) -> float:
        return WIDTHS[self.width] if isinstance(self.width, str) else float(self.width)

    @property
    def small(self) -> float:
        """The size of the print of ticks, labels of lines and the legend, in points."""
        return self.font_size - 1

    @property
    def rc(self) -> dict[Any, Any]:
        """Matplotlib's settings of a figure of this size."""
        small = ("xtick.labelsize", "ytick.labelsize", "legend.fontsize")
        sizes = dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), self.font_size)
        return RC | sizes | dict.fromkeys(small, self.small)


def paper_curve(
    frame: pd.DataFrame,
    x: str = "compression_ratio",
    y: str | None = None,
    *,
    methods: Sequence[str] | None = None,
    width: Width = "column",
    font_size: float = 8,
    styles: Mapping[str, Style] | None = None,
    span: float | None = None,
) -> Figure:
    """`quality_curve` for print: no title, and the name of each line at its end.

    What the caption of the figure must say is `paper_caption`. Up to 8 methods share one pair of
    axes; more get a panel for each family, below one another in a column and side by side on a
    page, with the other methods in pale grey. The order of the names is that of the ends of the
    lines: x runs from weak to strong compression, so bits per weight run downward. The width is
    exact; the height follows from the number of lines.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        x: as of `quality_curve`.
        y: as of `quality_curve`.
        methods: those to show; all, if not given. The Pareto front is that of those shown.
        width: ``column`` (3.3 inches), ``page`` (6.9 inches), or inches.
        font_size: points; ticks, labels of lines and the legend are a point smaller.
        styles: by method; by default those of this figure's own methods.
        span: as of `quality_curve`.

    Raises:
        ValueError: as `quality_curve` and `Paper`; or `methods` names one that has no record.
    """
    import matplotlib
    from matplotlib.figure import Figure

    paper = Paper(width, font_size)
    part = only(frame, methods)
    curves = curves_of(part, x, y or first_measure(part), styles or {}, span)
    families = sorted(curves.points["family"].unique())
    split = curves.points["method"].nunique() > MOST_LABELLED and len(families) > 1
    if styles is None:
        curves = replace(curves, styles=(family_styles if split else method_styles)(part))
    panels: list[str | None] = list(families) if split else [None]
    across = min(len(panels), max(1, int(paper.inches / PANEL_WIDTH)))
    down = -(-len(panels) // across)
    with matplotlib.rc_context(paper.rc):
        figure = Figure(figsize=(paper.inches, 2.0 * down), layout="constrained")
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        cells = list(grid.flat)
        for axes in cells[len(panels) :]:
            axes.remove()
        cells = cells[: len(panels)]
        for axes, family in zip(cells, panels, strict=True):
            draw(axes, curves, family)
        finish(cells[0], curves)
        if not curves.x_measure.higher_is_better:
            cells[0].invert_xaxis()  # Its lines end at fewer bits, where their names stand.
        _names_of_axes(figure, cells, across, curves, paper)
        for axes, family in zip(cells, panels, strict=True):
            if family is not None:
                inches = paper.inches / across - 0.6
                title = shortened(family, inches, paper.font_size)
                axes.set_title(title, loc="left", weight="bold", pad=2)
        _label(figure, cells, paper, across)
    return figure


def paper_caption(
    frame: pd.DataFrame,
    x: str = "compression_ratio",
    y: str | None = None,
    *,
    methods: Sequence[str] | None = None,
    span: float | None = None,
) -> str:
    """The caption of `paper_curve`: what its axes and legend leave open, in plain text.

    Raises:
        ValueError: as `paper_curve`.
    """
    part = only(frame, methods)
    curves = curves_of(part, x, y or first_measure(part), {}, span)
    fewest, seeds = curves.points["seeds"].min(), curves.points["seeds"].max()
    over = f"{seeds if fewest == seeds else f'{fewest} to {seeds}'} seeds"
    sentences = [
        f"{curves.title}: {curves.y_measure.words} against {curves.x_measure.words}",
        f"Lines go through the means of {over}" if seeds > 1 else "",
        curves.note[:1].upper() + curves.note[1:],
        f"Outside the axes: {', '.join(unseen)}" if (unseen := _unseen(curves)) else "",
    ]
    return " ".join(f"{text}." for text in sentences if text)


def only(frame: pd.DataFrame, methods: Sequence[str] | None) -> pd.DataFrame:
    """The rows of some methods; all rows for None.

    Raises:
        ValueError: there is no method, or one that has no row.
    """
    if methods is None:
        return frame
    found = sorted(frame["method"].unique())
    unknown = [name for name in methods if name not in found]
    if unknown or not len(methods):
        what = f"no record has method {unknown[0]!r}" if unknown else "methods=[] leaves nothing"
        raise ValueError(f"{what}: there are {', '.join(found)}")
    return frame[frame["method"].isin(methods)]  # type: ignore[return-value]


def save_for_print(figure: Figure, path: str | Path) -> list[Path]:
    """Write `figure` as PDF and SVG to `path`, whose suffix is replaced by theirs.

    Fonts are embedded in the PDF as TrueType, as journals ask for; the SVG keeps text as text, to
    be edited. A figure drawn again from the same records is the same file. Each file is there
    whole or not at all.
    """
    import matplotlib

    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    none = dict.fromkeys(("Creator", "Producer", "CreationDate"))
    kinds = {"pdf": none, "svg": {"Creator": None, "Date": None}}
    settings: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none"}
    settings |= {"svg.hashsalt": RC["svg.hashsalt"], "text.parse_math": False}
    written = []
    with matplotlib.rc_context(settings):
        for kind, metadata in kinds.items():
            target = path.with_name(f"{path.name.removesuffix(f'.{kind}')}.{kind}")
            with replacing(target) as file:
                figure.savefig(file, format=kind, metadata=metadata)
            written.append(target)
    return written


def _unseen(curves: Curves) -> list[str]:
    """The methods of which no point lies within the axes."""
    if curves.limits is None:
        return []
    seen = curves.points[curves.y].between(*curves.limits)
    return sorted(set(curves.points["method"]) - set(curves.points["method"][seen]))


def _names_of_axes(
    figure: Figure, cells: Sequence[Axes], across: int, curves: Curves, paper: Paper
) -> None:
    """What the axes show, and below them the marks that belong to no line."""
    for axes in cells[-across:]:
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.set_xlabel(wrapped(curves.x_measure.heading, paper.inches / across - 0.8))
    height = ALONE if len(cells) == 1 else OF_SEVERAL * -(-len(cells) // across)
    beside = wrapped(curves.y_measure.title, height, paper.font_size)
    if len(cells) == 1:
        cells[0].set_ylabel(beside)
    else:
        figure.supylabel(beside, fontsize=paper.font_size)
    handles = keys(curves)
    widths = [width_of(str(handle.get_label()), paper.small) / INCH + 0.45 for handle in handles]
    columns = max(1, min(len(handles), int(paper.inches / max(widths))))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        columnspacing=1.0,
        labelspacing=0.25,
        handlelength=2.0,
    )


def _label(figure: Figure, cells: Sequence[Axes], paper: Paper, across: int) -> None:
    """Direct labels, and the height of the figure that gives them room."""
    most = MOST_NAME * paper.inches / across
    labels = [add_labels(axes, most, paper.small) for axes in cells]
    room = max(sum(label.points for label in own) for own in labels) / INCH
    wanted = max(room, ALONE if len(cells) == 1 else OF_SEVERAL)
    down = -(-len(cells) // across)
    # The second time the legend and the names of axes are where they stay.
    for _ in range(2):
        figure.draw_without_rendering()
        got = min(axes.bbox.height for axes in cells) / figure.dpi
        figure.set_figheight(figure.get_figheight() + down * (wanted - got))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for own in labels:
        spread(own)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
