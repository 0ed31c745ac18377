"""Tables of the results, as CSV with all digits and as Markdown and LaTeX for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.curves import dense_baseline, summarise
from lowrank.plots.style import Measure, measure

if TYPE_CHECKING:
    import pandas as pd

RATIOS = (1.5, 2, 4, 8, 16, 32)

# Of the long table: column of the records → heading.
LONG = {
    "compression_ratio": "compression ratio",
    "param_ratio": "param ratio",
    "theoretical_speedup": "theoretical speedup",
    "speedup_b1": "speedup, batch 1",
    "trainable_params": "trainable params",
    "trainable_bytes": "trainable bytes",
    "top1": "top-1 (%)",
    "macro_f1": "macro F1 (%)",
    "flipped": "flipped (%)",
    "kl": "KL (nats)",
}

NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table with the caption that it needs to be understood.

    Attributes:
        values: the numbers, for CSV; deviations in columns of their own, after ``_std``.
        cells: the same as text, mean ± standard deviation; a dash where there is no value.
        best: of the shape of `cells`, true for those to set in bold.
        caption: what is shown, of which scope and over how many seeds.
    """

    values: pd.DataFrame
    cells: pd.DataFrame
    best: pd.DataFrame
    caption: str

    def to_csv(self) -> str:
        """Comma-separated, all digits, an empty field for no value."""
        return self.values.to_csv(index=False)

    def to_markdown(self) -> str:
        """A pipe table under its caption."""
        bold = self.cells.where(~self.best, "**" + self.cells + "**")
        # Text stays as it is: 8.0 must not become 8.
        return f"{self.caption}\n\n{bold.to_markdown(index=False, disable_numparse=True)}\n"

    def to_latex(self) -> str:
        """A table environment in the style of booktabs (``\\usepackage{booktabs}``)."""
        bold = self.best.map(lambda best: "textbf:--rwrap;" if best else "")
        cells = self.cells.map(_latex).rename(columns=_latex)
        bold.columns = cells.columns
        text = "ll" if "level" in self.cells else "l"
        return (
            cells.style.hide(axis="index")
            .apply(lambda _: bold, axis=None)
            .to_latex(
                hrules=True,
                caption=_latex(self.caption),
                column_format=text + "r" * (cells.shape[1] - len(text)),
                position_float="centering",
            )
        )

    def save(self, path: str | Path) -> list[Path]:
        """Write ``path.csv``, ``path.md`` and ``path.tex``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = {".csv": self.to_csv(), ".md": self.to_markdown(), ".tex": self.to_latex()}
        written = []
        for suffix, text in texts.items():
            target = path.with_name(path.name + suffix)
            target.write_text(text, encoding="utf-8")
            written.append(target)
        return written


def summary_table(
    frame: pd.DataFrame, metric: str = "top1", ratios: Sequence[float] = RATIOS
) -> Table:
    """The best of each method at each compression ratio or more: one row per method.

    An entry is a measured point: of the method's levels whose mean compression ratio (whole model)
    is at least that of the column, the one with the best mean of `metric`. Nothing is interpolated;
    a dash says that the method was not measured at such a ratio. The best of a column is bold.

    Args:
        frame: rows of `lowrank.results.load`, of one task, model and recovery.
        metric: a measure of quality that the dense model has too.
        ratios: of the columns; those above the first that no method reaches are left out.

    Raises:
        ValueError: as `lowrank.curves.summarise`.
    """
    import pandas as pd

    points, dense = summarise(frame, [metric]), dense_baseline(frame, metric)
    shown = measure(frame, metric)
    # The first stays, so that there is a column even where nothing was made smaller.
    most = float(points["compression_ratio"].to_numpy().max())
    ratios = [ratio for ratio in ratios if ratio == ratios[0] or ratio <= most]
    values, cells = [], []
    groups: Any = points.groupby(["family", "method"], dropna=False)
    for (family, method), levels in groups:
        value, cell = {"family": family, "method": method}, {"method": method}
        for ratio in ratios:
            mean, spread = _best(levels[levels["compression_ratio"] >= ratio], metric, shown)
            value |= {f"{ratio:g}x": mean, f"{ratio:g}x_std": spread}
            cell[f"{ratio:g}×"] = _cell(mean, spread, shown)
        values.append(value)
        cells.append(cell)
    values, cells = pd.DataFrame(values), pd.DataFrame(cells)
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for ratio in ratios:
        column = values[f"{ratio:g}x"]
        best[f"{ratio:g}×"] = column == (column.max() if shown.higher_is_better else column.min())
    title = " ".join(shown.title.split())
    caption = (
        f"{_subject(frame)}: {title}{' in %' if shown.percent else ''}. Each entry is the best "
        "measured level of the method whose compression ratio (whole model, dense bytes / "
        f"compressed bytes) is at least that of the column; {NONE} where none is. "
        f"{_seeds(points)} Dense model: {_cell(*dense, shown)}."
    )
    return Table(values, cells, best, caption)


def long_table(frame: pd.DataFrame) -> Table:
    """Every method at every level: ratios, speedups and quality, of those that were measured.

    Raises:
        ValueError: as `lowrank.curves.summarise`.
    """
    import pandas as pd

    columns = [name for name in LONG if name in frame and not all(frame[name].isna())]
    if set(frame["recovery"]) == {"none"}:  # Nothing was trained.
        columns = [name for name in columns if not name.startswith("trainable")]
    points: Any = summarise(frame, columns)
    cells = pd.DataFrame(
        {
            "method": points["method"],
            "level": [f"{level:g}" for level in points["level"]],
            **{
                LONG[column]: [
                    _cell(mean, spread, measure(frame, column))
                    for mean, spread in zip(points[column], points[f"{column}_std"], strict=True)
                ]
                for column in columns
            },
            "seeds": points["seeds"].astype(str),
        }
    )
    spreads = [name for column in columns for name in (column, f"{column}_std")]
    values = points[["family", "method", "level", *spreads, "seeds"]]
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    caption = (
        f"{_subject(frame)}: every measured point. Ratios are dense over compressed, of the whole "
        "model; flipped: predictions that differ from the dense model's; KL: of the compressed "
        f"model's outputs from the dense model's, per example. {_seeds(points)}"
    )
    if "speedup_b1" in columns:
        where = " ".join(measure(frame, "speedup_b1").title.split())
        caption += f" Speedup: {where}."
    return Table(values, cells, best, caption)


def _best(levels: Any, metric: str, shown: Measure) -> tuple[float, float]:
    quality = levels[metric].dropna()
    if quality.empty:
        return float("nan"), float("nan")
    row = levels.loc[quality.idxmax() if shown.higher_is_better else quality.idxmin()]
    return float(row[metric]), float(row[f"{metric}_std"])


def _cell(mean: float, spread: float, shown: Measure) -> str:
    if mean != mean:
        return NONE
    scale, digits = (100, 2) if shown.percent else (1, 2 if shown.ratio else 3)
    digits = 0 if shown.whole else digits
    text = f"{scale * mean:.{digits}f}"
    return text if spread != spread else f"{text} ± {scale * spread:.{digits}f}"


def _subject(frame: Any) -> str:
    first = frame.iloc[0]
    recovery = "without recovery" if first["recovery"] == "none" else f"after {first['recovery']}"
    return f"{first['task']}, {first['model']}, {recovery}"


def _seeds(points: Any) -> str:
    fewest, most = points["seeds"].min(), points["seeds"].max()
    if most == 1:
        return "One seed, so no spread."
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"Mean ± sample standard deviation over {count} seeds."


def _latex(text: str) -> str:
    """Plain text with what LaTeX would take for its own made harmless."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    signs |= {"±": r"$\pm$", "×": r"$\times$", "–": "--", "‖": r"$\Vert$"}
    return "".join(signs.get(sign, sign) for sign in text)
