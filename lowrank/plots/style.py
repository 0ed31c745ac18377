"""How figures look: sizes for print, colours that everybody can tell apart, names of axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Widths of a column and of a page of a two-column paper, in inches.
COLUMN, PAGE = 3.5, 7.2

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
    # A figure drawn again from the same records is the same file.
    "svg.hashsalt": "lowrank",
}

# Okabe & Ito 2008, without the yellow, which does not show on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
DENSE = "0.35"

RATIO_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Style:
    """Colour, marker and dashes of one method: each alone tells neighbours apart."""

    colour: str
    marker: str
    line: Any


@dataclass(frozen=True)
class Measure:
    """What an axis shows: its title with unit and scope, and how its numbers read."""

    title: str
    ratio: bool = False  # log2, ticks 1×, 2×, 4×, …
    percent: bool = False
    whole: bool = False  # a count
    higher_is_better: bool = True


MEASURES = {
    "compression_ratio": Measure(
        "compression ratio\n(whole model, dense bytes / compressed bytes)", ratio=True
    ),
    "layers_compression_ratio": Measure(
        "compression ratio\n(compressed layers, dense bytes / compressed bytes)", ratio=True
    ),
    "param_ratio": Measure(
        "parameter ratio\n(whole model, dense params / compressed params)", ratio=True
    ),
    "layers_param_ratio": Measure(
        "parameter ratio\n(compressed layers, dense params / compressed params)", ratio=True
    ),
    "theoretical_speedup": Measure(
        "theoretical speedup\n(one example, dense MACs / compressed MACs)", ratio=True
    ),
    "trainable_ratio": Measure(
        "ratio of trainable parameters\n(whole model, dense / compressed)", ratio=True
    ),
    "trainable_params": Measure("trainable parameters", whole=True),
    "trainable_bytes": Measure("bytes of trainable parameters", whole=True),
    "top1": Measure("top-1 accuracy (test split)", percent=True),
    "top5": Measure("top-5 accuracy (test split)", percent=True),
    "macro_recall": Measure("macro recall (test split)", percent=True),
    "macro_f1": Measure("macro F1 (test split)", percent=True),
    "loss": Measure("loss (test split, mean per example)", higher_is_better=False),
    "flipped": Measure(
        "share of predictions that differ\nfrom the dense model's (test split)",
        percent=True,
        higher_is_better=False,
    ),
    "kl": Measure("KL(dense ‖ compressed)\n(test split, nats per example)", higher_is_better=False),
}


def measure(frame: pd.DataFrame, column: str) -> Measure:
    """What a column shows. A measured speedup says on what it was measured.

    Raises:
        ValueError: the frame has no such column.
    """
    if column not in frame:
        raise ValueError(f"the records hold no column {column!r} to draw")
    if column in MEASURES:
        return MEASURES[column]
    batch = column.removeprefix("speedup_b")
    if batch.isdigit():
        conditions = [
            "/".join(str(value) for value in frame[f"latency_b{batch}_{name}"].dropna().unique())
            for name in ("device", "threads", "dtype")
        ]
        device, threads, dtype = conditions
        return Measure(
            f"measured speedup (dense latency / compressed latency)\nbatch {batch}, {device}, "
            f"{threads} thread{'' if threads == '1' else 's'}, {dtype}",
            ratio=True,
        )
    return Measure(column)


def method_styles(frame: pd.DataFrame) -> dict[str, Style]:
    """A style for each method, in the order of families and names.

    Hand it to the figures of a part of `frame`, and every method looks the same in all of them.
    """
    pairs: Any = frame[["family", "method"]]
    methods = pairs.drop_duplicates().sort_values(["family", "method"])
    return {name: _style(index) for index, name in enumerate(methods["method"])}


def family_styles(frame: pd.DataFrame) -> dict[str, Style]:
    """Styles that start anew in each family, for figures with a panel per family."""
    styles = {}
    for _, members in frame.groupby("family", dropna=False):
        styles |= {name: _style(i) for i, name in enumerate(sorted(members["method"].unique()))}
    return styles


def _style(index: int) -> Style:
    return Style(
        COLOURS[index % len(COLOURS)],
        MARKERS[index % len(MARKERS)],
        LINES[(index // len(COLOURS) + index) % len(LINES)],
    )


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write `figure` as PNG (300 dpi) and SVG to `path`, whose suffix is replaced by theirs."""
    import matplotlib

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(RC):
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            # Not with_suffix: a name may hold a dot, as in "layers-2.5x".
            target = path.with_name(path.name.removesuffix(suffix) + suffix)
            figure.savefig(target, dpi=300, metadata=metadata)
            written.append(target)
            # The layout is found; to find it again takes as long as the drawing.
            figure.set_layout_engine("none")
    return written


def set_ratio_axis(axis: Axis, values: Sequence[float]) -> None:
    """Log2 with ticks 1×, 2×, 4×, …, as many as `values` reach, and at least one doubling."""
    low, high = min(values), max(values)
    axis.axes.set_xscale("log", base=2)
    low, high = min(low, high / 2), max(high, low * 2)
    axis.axes.set_xlim(low / 1.12, high * 1.12)
    ticks = [tick for tick in RATIO_TICKS if low / 1.12 <= tick <= high * 1.12]
    axis.set_ticks(ticks, [f"{tick:g}×" for tick in ticks])
    axis.set_minor_locator(_no_ticks())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def set_percent_axis(axes: Axes) -> None:
    """Ticks in percent with the digits that they need, and no zeros after them."""
    # A function, which matplotlib takes as it is.
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.5g}%")
