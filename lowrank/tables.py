"""Tables of the results, as CSV with all digits and as Markdown and LaTeX for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.columns import NONE, Measure, measure
from lowrank.curves import dense_baseline, norms_in_order, summarise

if TYPE_CHECKING:
    import pandas as pd

# Sizes that a table can have columns for, by how they read: from weak to strong, and how a column
# is called in CSV and for people.
STEPS = {"ratio": (1.5, 2, 4, 8, 16, 32), "bits": (16, 10, 8, 6, 5, 4, 3)}
UNITS = {"ratio": ("x", "×"), "bits": (" bits", " bits")}

# What a caption says of a recovery that the dense model did not have, by whether it tunes.
OWN = {
    False: "corrected on calibration data, the dense model left as it is",
    True: "tuned on calibration data toward the dense model, which is left as it is",
}

# The columns of the long table, of those that were measured.
LONG = (
    *("compression_ratio", "param_ratio", "theoretical_speedup", "speedup_b1"),
    *("trainable_params", "trainable_bytes"),
    *("perplexity", "word_perplexity", "bits_per_byte", "top1", "macro_f1"),
    *("cosine", "flipped", "kl"),
)


@dataclass(frozen=True)
class Table:
    """A table with the caption that it needs to be understood.

    Attributes:
        values: the numbers, for CSV; deviations in columns of their own, after ``_std``.
        cells: the same as text, mean ± standard deviation; a dash where there is no value.
        best: of the shape of `cells`, true for those to set in bold.
        caption: what is shown, of which scope and over how many seeds.
        labels: how many columns of `cells`, from the left, are names and not numbers.
    """

    values: pd.DataFrame
    cells: pd.DataFrame
    best: pd.DataFrame
    caption: str
    labels: int = 1

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
        return (
            cells.style.hide(axis="index")
            .apply(lambda _: bold, axis=None)
            .to_latex(
                hrules=True,
                caption=_latex(self.caption),
                column_format="l" * self.labels + "r" * (cells.shape[1] - self.labels),
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
    frame: pd.DataFrame,
    metric: str = "top1",
    size: str = "compression_ratio",
    steps: Sequence[float] | None = None,
) -> Table:
    """The best of each method at each size or smaller: one row per method.

    An entry is a measured point: of the method's levels whose mean `size` is at least that of the
    column (at most, where less is better, as of bits per weight), the one with the best mean of
    `metric`. Nothing is interpolated; a dash says that the method was not measured at such a size.
    The best of a column is bold.

    Args:
        frame: rows of `lowrank.results.load`, of one task, model and recovery.
        metric: a measure of quality that the dense model has too.
        size: a ratio, such as ``compression_ratio``, or ``layers_bits_per_weight``.
        steps: of the columns, from weak to strong; those after the first that no method reaches
            are left out.

    Raises:
        ValueError: as `lowrank.curves.summarise`, or `size` is neither.
    """
    import pandas as pd

    points, dense = summarise(frame, [metric, size]), dense_baseline(frame, metric)
    shown, small = measure(frame, metric), measure(frame, size)
    steps = _reached(points[size], size, small, steps)
    in_csv, unit = UNITS[small.scale]
    values, cells = [], []
    groups: Any = points.groupby(["family", "method"], dropna=False)
    for (family, method), levels in groups:
        value, cell = {"family": family, "method": method}, {"method": method}
        for step in steps:
            reaching = levels[small.sign * levels[size] >= small.sign * step]
            mean, spread = _best(reaching, metric, shown)
            value |= {f"{step:g}{in_csv}": mean, f"{step:g}{in_csv}_std": spread}
            cell[f"{step:g}{unit}"] = shown.text(mean, spread)
        values.append(value)
        cells.append(cell)
    values, cells = pd.DataFrame(values), pd.DataFrame(cells)
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for step in steps:
        column = shown.sign * values[f"{step:g}{in_csv}"]
        best[f"{step:g}{unit}"] = column == column.max()
    caption = (
        f"{subject(frame)}: {in_unit(shown)}. Each entry is the best measured level of the method "
        f"whose {small.words} is at {'least' if small.higher_is_better else 'most'} that of the "
        f"column; {NONE} where none is. {over_seeds(points)} Dense model: {shown.text(*dense)}."
    )
    return Table(values, cells, best, caption)


def long_table(frame: pd.DataFrame, size: str = "compression_ratio") -> Table:
    """Every method at every level: sizes, speedups and quality, of those that were measured.

    Args:
        frame: rows of `lowrank.results.load`, of one task, model and recovery.
        size: what comes first; see `summary_table`.

    Raises:
        ValueError: as `lowrank.curves.summarise`.
    """
    import pandas as pd

    names = dict.fromkeys((size, *LONG))
    columns = [name for name in names if name in frame and not all(frame[name].isna())]
    if set(frame["dense_recovery"]) == {"none"}:  # Nothing was trained for the task.
        columns = [name for name in columns if not name.startswith("trainable")]
    points: Any = summarise(frame, columns)
    measures = {column: measure(frame, column) for column in columns}
    # In one norm only, its name says nothing.
    norms = ["norm"] if len(norms_in_order(points["norm"])) > 1 else []
    cells = pd.DataFrame(
        {
            "method": points["method"],
            **{name: points[name] for name in norms},
            "level": [f"{level:g}" for level in points["level"]],
            **{
                shown.heading: [
                    shown.text(mean, spread)
                    for mean, spread in zip(points[column], points[f"{column}_std"], strict=True)
                ]
                for column, shown in measures.items()
            },
            "seeds": points["seeds"].astype(str),
        }
    )
    spreads = [name for column in columns for name in (column, f"{column}_std")]
    values = points[["family", "method", *norms, "level", *spreads, "seeds"]]
    best = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    one = "token" if "perplexity" in frame else "example"
    caption = (
        f"{subject(frame)}: every measured point. Ratios are dense over compressed, of the whole "
        "model; flipped: predictions that differ from the dense model's; KL: of the compressed "
        f"model's outputs from the dense model's, per {one}. {over_seeds(points)}"
    )
    if size not in LONG:
        caption += f" First: {measures[size].words}."
    if "speedup_b1" in columns:
        caption += f" Speedup: {measures['speedup_b1'].words}."
    return Table(values, cells, best, caption, labels=2 + len(norms))


def _reached(sizes: Any, size: str, small: Measure, steps: Sequence[float] | None) -> list[float]:
    """The columns of a table of `sizes`: of `steps` the first and those that one of them reaches.

    The first stays, so that there is a column even where nothing was made smaller.
    """
    if small.scale not in STEPS:
        raise ValueError(
            f"size={size!r} has no columns to make a table of: give a ratio, such as "
            "compression_ratio, or layers_bits_per_weight"
        )
    steps = STEPS[small.scale] if steps is None else steps
    most = float((small.sign * sizes).to_numpy().max())
    return [step for step in steps if step == steps[0] or small.sign * step <= most]


def _best(levels: Any, metric: str, shown: Measure) -> tuple[float, float]:
    quality = (shown.sign * levels[metric]).dropna()
    if quality.empty:
        return float("nan"), float("nan")
    row = levels.loc[quality.idxmax()]
    return float(row[metric]), float(row[f"{metric}_std"])


def subject(frame: Any) -> str:
    """The task, model and recovery of a comparison, for a caption."""
    first = frame.iloc[0]
    both = first["dense_recovery"]
    recovery = "without recovery" if both == "none" else f"after {both}"
    pairs: Any = frame[["recovery", "tuned"]].drop_duplicates()
    own = pairs[pairs["recovery"] != both].sort_values("recovery")
    named = [f"“+ {name}”: {OWN[bool(tuned)]}" for name, tuned in own.to_numpy().tolist()]
    recovery += f" ({'; '.join(named)})" if named else ""
    return f"{first['task']}, {first['model']}, {recovery}"


def in_unit(shown: Measure) -> str:
    """What a table shows, for a caption."""
    return f"{shown.words}{' in %' if shown.scale == 'percent' else ''}"


def over_seeds(points: Any) -> str:
    """What the entries are means of, for a caption."""
    fewest, most = points["seeds"].min(), points["seeds"].max()
    if most == 1:
        return "One seed, so no spread."
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"Mean ± sample standard deviation over {count} seeds."


def _latex(text: str) -> str:
    """Plain text with what LaTeX would take for its own made harmless."""
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    signs |= {"“": "``", "”": "''"}
    signs |= {"±": r"$\pm$", "×": r"$\times$", "–": "--", "‖": r"$\Vert$"}
    return "".join(signs.get(sign, sign) for sign in text)
