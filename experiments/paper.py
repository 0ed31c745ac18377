"""The figures of a report for a paper: PDF, SVG, and LaTeX that includes it under its caption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from experiments.report_options import Options
    from lowrank.reporting.plots import Style

DEFAULT_FONT_SIZE = 8


def print_curves(
    chosen: Options,
    name: str,
    part: pd.DataFrame,
    views: Mapping[str, tuple[str, float | None]],
) -> Iterator[Path]:
    """Write the figures of quality, and of the norms if there are several, of one comparison.

    Args:
        chosen: with a `paper`.
        name: of the comparison.
        part: its records.
        views: the end of the name of each figure → its x and, of a close-up, its span.
    """
    from lowrank.reporting.curves import in_several_norms
    from lowrank.reporting.plots.style import norm_styles

    for kind, (x, span) in views.items():
        yield from _print(chosen, f"{name}-{kind}", part, x, span)
    try:
        rows = in_several_norms(part) if len(part["norm"].unique()) > 1 else part.head(0)
    except ValueError:
        return  # The report says so of its own figure of the norms.
    if len(rows):
        styles = norm_styles(rows)
        yield from _print(chosen, f"{name}-norms", rows, str(chosen.size), None, styles)


def _print(
    chosen: Options,
    name: str,
    part: pd.DataFrame,
    x: str,
    span: float | None,
    styles: Mapping[str, Style] | None = None,
) -> Iterator[Path]:
    from lowrank.reporting import latex, plots
    from lowrank.reporting.table import write

    size: Any = {"width": chosen.paper, "font_size": chosen.font_size or DEFAULT_FONT_SIZE}
    figure = plots.paper_curve(part, x, chosen.metric, span=span, styles=styles, **size)
    pdf, svg = plots.save_for_print(figure, Path(chosen.out) / f"{name}-paper")
    yield from (pdf, svg)
    caption = plots.paper_caption(part, x, chosen.metric, span=span)
    yield write(pdf.with_suffix(".tex"), latex.figure(pdf.name, caption))
