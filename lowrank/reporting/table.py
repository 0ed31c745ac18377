"""A table with its caption, written as CSV with all digits and as rounded Markdown and LaTeX.

Names come from records, which may be untrusted. They are escaped, so that no program reads them as
a formula, as markup or as a command.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.files.atomic import replacing
from lowrank.files.paths import as_path
from lowrank.reporting import latex

if TYPE_CHECKING:
    import pandas as pd

# The first characters of cells that spreadsheets take for formulas.
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
MARKUP = set("\\`|<>[]*$&")


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
        """Comma-separated, all digits, an empty field for no value; see `csv_text`."""
        return csv_text(self.values)

    def to_markdown(self) -> str:
        """A pipe table under its caption."""
        cells = self.cells.map(_markdown).rename(columns=_markdown)
        bold = cells.where(~self.best.to_numpy(), "**" + cells + "**")
        # Text stays as it is: 8.0 must not become 8.
        text = bold.to_markdown(index=False, disable_numparse=True)
        return f"{_markdown(self.caption)}\n\n{text}\n"

    def to_latex(self) -> str:
        """A table environment for ``\\usepackage{booktabs, siunitx}``; see `latex.table`."""
        return latex.table(self.cells, self.best, self.caption, self.labels)

    def save(self, path: str | Path) -> list[Path]:
        """Write ``path.csv``, ``path.md`` and ``path.tex``, each whole or not at all."""
        texts = {".csv": self.to_csv(), ".md": self.to_markdown(), ".tex": self.to_latex()}
        path = as_path(path)
        return [write(path.with_name(path.name + end), text) for end, text in texts.items()]


def no_bold(cells: pd.DataFrame) -> pd.DataFrame:
    """`Table.best` of cells of which none is bold."""
    return cells.isna() & False


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV; text that a spreadsheet would take for a formula begins with ``'``."""
    return frame.map(_no_formula).rename(columns=_no_formula).to_csv(index=False)


def write(path: Path, text: str) -> Path:
    """Write a file whole or not at all, with the folders above it; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write_text(text, encoding="utf-8")
    return path


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell


def _markdown(text: str) -> str:
    """Plain text with what Markdown would take for its own made harmless."""
    return "".join(f"\\{sign}" if sign in MARKUP else sign for sign in _on_one_line(text))


def _on_one_line(text: str) -> str:
    return " ".join(text.split("\n"))
