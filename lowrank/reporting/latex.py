"""Tables and captions as LaTeX, with rules of booktabs and numbers aligned by siunitx.

Every text is escaped, because names come from records, which may be untrusted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# A number, and if there are any, a deviation, and a remark in brackets or a dagger or both.
NUMBER = r"(?P<mean>-?\d+(\.\d+)?)( ± (?P<spread>\d+(\.\d+)?))?"
ENTRY = re.compile(NUMBER + r"( (?P<remark>\(.*\)( †)?|†))?")
# Bold numbers need the first two with version 2 of siunitx, and version 3 takes them too.
SETTINGS = r"\sisetup{detect-weight, mode=text, separate-uncertainty}"
SIGNS = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"“": "``", "”": "''", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{
        "†": r"$\dagger$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "–": "--",
        "−": "$-$",
        "‖": r"$\Vert$",
        "|": r"\textbar{}",
    },
    # At the start of a row these would belong to the line break before it.
    **{sign: f"{{{sign}}}" for sign in "[]*"},
}


@dataclass(frozen=True)
class LatexColumn:
    """A column of a table: how it is aligned, its head and its cells."""

    alignment: str
    head: str
    cells: list[str]


def escaped(text: str) -> str:
    """Plain text on one line, with what LaTeX would take for its own made harmless."""
    return "".join(SIGNS.get(sign, sign) for sign in " ".join(text.split("\n")))


def _signed(text: str) -> str:
    """A text with numbers, whose minus signs are no hyphens."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def table(cells: pd.DataFrame, best: pd.DataFrame, caption: str, labels: int) -> str:
    r"""A table environment for ``\usepackage{booktabs, siunitx}`` (version 2 or 3).

    Numbers are aligned on the decimal point and deviations on theirs. A remark in brackets after a
    number stands in a column of its own under the same head; any other text beside numbers is
    centred.

    Args:
        cells: texts; a number may have a deviation after ± and a remark in brackets.
        best: of the shape of `cells`, true for those to set in bold.
        caption: plain text.
        labels: how many columns, from the left, are names and not numbers.
    """
    columns: list[LatexColumn] = []
    for index, name in enumerate(cells):
        texts, bold = cells.iloc[:, index].tolist(), best.iloc[:, index].tolist()
        columns += _column(str(name), texts, bold, index < labels)
    rows = zip(*(column.cells for column in columns), strict=True)
    lines = [
        r"% \usepackage{booktabs, siunitx}",
        r"\begin{table}",
        r"\centering",
        SETTINGS,
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{{''.join(column.alignment for column in columns)}}}",
        r"\toprule",
        _row([column.head for column in columns if column.head]),
        r"\midrule",
        *map(_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def figure(file: str, caption: str) -> str:
    r"""A figure environment for ``\usepackage{graphicx}``.

    Args:
        file: the name of the file of the figure, as `lowrank.files.names.stems` makes names.
        caption: plain text.
    """
    lines = [
        r"\begin{figure}",
        r"\centering",
        rf"\includegraphics{{\detokenize{{{file}}}}}",
        rf"\caption{{{escaped(caption)}}}",
        r"\end{figure}",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _column(name: str, texts: list[str], bold: list[bool], is_label: bool) -> list[LatexColumn]:
    """One column, or two where numbers have remarks."""
    found = [None if is_label else ENTRY.fullmatch(text) for text in texts]
    numbers = [match for match in found if match]
    if not numbers:
        shown = texts if is_label else map(_signed, texts)
        pairs = zip(map(escaped, shown), bold, strict=True)
        own = [rf"\textbf{{{text}}}" if best else text for text, best in pairs]
        return [LatexColumn("l" if is_label else "r", escaped(name), own)]
    cells = [
        _number(match, best) if match else f"{{{escaped(text)}}}"
        for text, match, best in zip(texts, found, bold, strict=True)
    ]
    head, alignment = f"{{{escaped(name)}}}", f"S[table-format={_format(numbers)}]"
    remarks = [escaped(match["remark"] or "") if match else "" for match in found]
    if not any(remarks):
        return [LatexColumn(alignment, head, cells)]
    both = rf"\multicolumn{{2}}{{c}}{head}"
    return [LatexColumn(alignment, both, cells), LatexColumn(r"@{\ }l", "", remarks)]


def _number(match: re.Match[str], best: bool) -> str:
    weight = r"\bfseries " if best else ""
    return f"{weight}{match['mean']}" + (f" +- {match['spread']}" if match["spread"] else "")


def _format(numbers: Sequence[re.Match[str]]) -> str:
    """The room of numbers: digits before and after the point, and those of deviations."""
    parts = [match["mean"].lstrip("-").partition(".") for match in numbers]
    whole, decimals = (max(len(part[place]) for part in parts) for place in (0, 2))
    sign = "-" if any(match["mean"].startswith("-") for match in numbers) else ""
    point = f".{decimals}" if decimals else ""
    spreads = [match["spread"].replace(".", "").lstrip("0") for match in numbers if match["spread"]]
    brackets = f"({max(1, *map(len, spreads))})" if spreads else ""
    return f"{sign}{whole}{point}{brackets}"
