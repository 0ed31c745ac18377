"""The style of figures: sizes for print, colours for colour-blind readers, legends, files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.files.atomic import replacing
from lowrank.files.paths import as_path
from lowrank.reporting.plots.text import wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Widths of a column and of a page of a two-column paper, in inches.
COLUMN, PAGE = 3.5, 7.2
# The size of small print, in points.
NOTE = 6.5

RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 6.5,
    "legend.frameon": True,
    "legend.framealpha": 0.75,
    "legend.edgecolor": "none",
    "legend.borderpad": 0.2,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    # A name with two dollars is no formula.
    "text.parse_math": False,
    # A figure drawn again from the same records is the same file.
    "svg.hashsalt": "lowrank",
}

# Okabe & Ito 2008, without the yellow, which does not show on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
DENSE = "0.35"

# Of families: far enough apart in lightness for grey print too.
SHADES = ("#1B3A6B", "#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#000000")
# Of norms: from dots to a full line, the more is known of the inputs.
NORM_LOOKS: Mapping[str, tuple[str, Any]] = {
    "identity": ("o", (0, (1, 1.2))),
    "diagonal": ("s", (0, (5, 1.5))),
    "full": ("^", "-"),
    "fisher": ("D", (0, (5, 1, 1, 1))),
}
OTHER_NORM = "v", (0, (3, 1, 1, 1, 1, 1))
HOLLOW: Mapping[str, Any] = {"markeredgewidth": 0.8}
# Of further methods of one family and norm.
FURTHER = ("P", "X", "*", "h", "<", ">")


@dataclass(frozen=True)
class Style:
    """Colour, marker and dashes of one method; neighbours differ in each of the three.

    Markers are hollow where the model, and not the dense one, was tuned on data.
    """

    colour: str
    marker: str
    line: Any
    hollow: bool = False

    def markers(self) -> dict[str, Any]:
        """Matplotlib's settings of the markers."""
        if self.hollow:
            return {"markerfacecolor": "white", "markeredgecolor": self.colour, **HOLLOW}
        return {"markeredgecolor": "white", "markeredgewidth": 0.4}


def method_styles(frame: pd.DataFrame) -> dict[str, Style]:
    """A style for each method, in the order of families and names.

    Hand it to the figures of a part of `frame`, and every method looks the same in all of them.
    """
    pairs: Any = frame[["family", "method"]]
    methods = pairs.drop_duplicates().sort_values(["family", "method"])
    return _styles(methods["method"], frame)


def family_styles(frame: pd.DataFrame) -> dict[str, Style]:
    """Styles that start anew in each family, for figures with a panel per family."""
    styles = {}
    for _, members in frame.groupby("family", dropna=False):
        styles |= _styles(sorted(members["method"].unique()), frame)
    return styles


def norm_styles(frame: pd.DataFrame) -> dict[str, Style]:
    """A style for each method: its colour from its family, marker and dashes from its norm.

    Of several methods of one family and norm, those after the first by name have other markers.
    """
    families = sorted(frame["family"].unique())
    styles = {}
    groups: Any = frame.groupby(["family", "norm"], dropna=False)
    for (family, norm), members in groups:
        marker, line = NORM_LOOKS.get(norm, OTHER_NORM)
        for index, name in enumerate(sorted(members["method"].unique())):
            own = marker if index == 0 else FURTHER[(index - 1) % len(FURTHER)]
            styles[name] = Style(SHADES[families.index(family) % len(SHADES)], own, line)
    return styles


def _styles(methods: Iterable[str], frame: pd.DataFrame) -> dict[str, Style]:
    # Where the dense model was tuned too, tuned models need no distinction.
    own: Any = frame["tuned"].astype(bool) & (frame["recovery"] != frame["dense_recovery"])
    hollow = set(frame["method"][own])
    return {name: _style(index, name in hollow) for index, name in enumerate(methods)}


def _style(index: int, hollow: bool) -> Style:
    return Style(
        COLOURS[index % len(COLOURS)],
        MARKERS[index % len(MARKERS)],
        LINES[(index // len(COLOURS) + index) % len(LINES)],
        hollow,
    )


def legend_above(
    axes: Axes, title: str, handles: Sequence[Artist], left: float = -0.03, columns: int = 1
) -> None:
    """A legend under a bold title above the axes, where no curve can run under it.

    Args:
        left: where it begins, as a share of the width of the axes; several can stand in a row.
        columns: of its entries.
    """
    before = axes.get_legend()
    legend = axes.legend(
        handles=handles,
        title=title,
        title_fontproperties={"weight": "bold", "size": RC["axes.titlesize"]},
        alignment="left",
        loc="lower left",
        bbox_to_anchor=(left, 0.99),
        ncols=columns,
        columnspacing=1.0,
        labelspacing=0.25,
    )
    legend.set_in_layout(True)
    if before is not None:
        axes.add_artist(before)
        before.set_clip_on(False)  # What is clipped gets no room in the layout.


def note_below(figure: Figure, handles: Sequence[Artist], note: str, columns: int) -> int:
    """A legend below everything, under a note of small print; the lines that both take."""
    inches = figure.get_size_inches()[0]
    text = wrapped(note, inches - 0.3, NOTE)
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        columnspacing=1.0,
        title=text,
        title_fontproperties={"size": NOTE},
    )
    legend.get_title().set(color="0.3", multialignment="center")
    lines = text.count("\n") + 1 if text else 0
    return lines - (-len(handles) // columns)


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write `figure` as PNG (300 dpi) and SVG to `path`, whose suffix is replaced by theirs.

    Each file is there whole or not at all.
    """
    import matplotlib

    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(RC):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            # Not with_suffix: a name may hold a dot, as in "layers-2.5x".
            target = path.with_name(f"{path.name.removesuffix(f'.{kind}')}.{kind}")
            with replacing(target) as file:
                figure.savefig(file, format=kind, dpi=300, metadata=metadata)
            written.append(target)
            # The layout is kept; computing it again takes as long as drawing.
            figure.set_layout_engine("none")
    return written
