"""Docstrings as Sphinx reads them; an extension of Sphinx."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

# Code, in which signs are only signs, or a bar, which reStructuredText takes for a substitution.
_CODE_OR_BAR = re.compile(r"``.*?``|`[^`]*`|\|", flags=re.DOTALL)


def plain(text: str) -> str:
    """A docstring with the bars of its formulas made plain text."""
    return _CODE_OR_BAR.sub(lambda found: "\\|" if found[0] == "|" else found[0], text)


def _process(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]):
    lines[:] = plain("\n".join(lines)).split("\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    # Before Napoleon, whose own marks are no bars of a formula.
    app.connect("autodoc-process-docstring", _process, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
