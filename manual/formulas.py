"""Formulas as MathML, which browsers draw without fonts or scripts of ours.

An extension of Sphinx. What it cannot read is a warning, and so an error of the build.
"""

from __future__ import annotations

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LOG = logging.getLogger(__name__)
_CONVERTER = LatexToMathML()


def mathml(latex: str, *, display: bool) -> str:
    """A formula of LaTeX as an element of MathML Core.

    Raises:
        LatexError: it is no LaTeX that the converter knows.
    """
    return _CONVERTER.convert_with_local_state(latex, displaystyle=display)


def _written(node: nodes.Element, *, display: bool) -> str:
    try:
        return mathml(node.astext(), display=display)
    except LatexError:
        _LOG.warning("no formula: %s", node.astext(), location=node)
        return ""


def inline(translator: HTML5Translator, node: nodes.Element) -> None:
    translator.body.append(_written(node, display=False))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.Element) -> None:
    translator.body.append(f'<div class="formula">{_written(node, display=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"  # type: ignore[attr-defined]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
