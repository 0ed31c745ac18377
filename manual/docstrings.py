"""Docstrings as Sphinx reads them; an extension of Sphinx."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

# Several attributes before what they are.
_TOGETHER = re.compile(r" {4}(\w+(?:, \w+)+): ")
# Code, in which signs are only signs, or a bar, which reStructuredText takes for a substitution.
_CODE_OR_BAR = re.compile(r"``.*?``|`[^`]*`|\|", flags=re.DOTALL)


def plain(text: str) -> str:
    """A docstring with the bars of its formulas made plain text."""
    return _CODE_OR_BAR.sub(lambda found: "\\|" if found[0] == "|" else found[0], text)


def each_apart(lines: list[str]) -> list[str]:
    """A docstring whose attributes that are described together are described one by one.

    Napoleon takes "one, two: what they are" for an attribute `two` of the type "one,".
    """
    found, names, at = list[str](), list[str](), 0
    for line in [*lines, ""]:
        field = _TOGETHER.match(line)
        is_more = bool(names) and line.startswith(" " * 8)
        if names and not is_more:
            first, *more = found[at:]
            said = first.partition(":")[2]
            found[at:] = [text for name in names for text in (f"    {name}:{said}", *more)]
            names = []
        if field and _is_attribute(found):
            names, at = field[1].split(", "), len(found)
        found.append(line)
    return found[:-1]


def _is_attribute(before: list[str]) -> bool:
    headings = [line for line in before if line and not line.startswith(" ")]
    return bool(headings) and headings[-1] == "Attributes:"


def _process(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]):
    lines[:] = plain("\n".join(each_apart(lines))).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    # Before Napoleon, whose own marks are no bars of a formula.
    app.connect("autodoc-process-docstring", _process, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
