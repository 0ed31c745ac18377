"""The page of the explorer: data, script and style in one HTML file that asks for no other.

The data are JSON, compressed and in base64, so that no text of a record can become markup. The
script makes elements and sets their text, and a Content-Security-Policy with the hashes of script
and style lets the browser run and load nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from lowrank.reporting.curves import comparisons
from lowrank.reporting.explorer.data import Command, comparison
from lowrank.reporting.explorer.outcomes import packed

if TYPE_CHECKING:
    import pandas as pd

# The most bytes of a page, for outcomes of single examples as far as they fit; records and layers
# come in any case, and take less for the first thousand records.
MOST_BYTES = 3_000_000
# In the order in which they use each other.
SCRIPTS = (
    *("format.js", "statistics.js", "scales.js", "model.js", "state.js", "dom.js"),
    *("filters.js", "plot.js", "labels.js", "points.js", "table.js", "detail.js", "layers.js"),
    *("compare.js", "main.js"),
)
ASSETS = files("lowrank.reporting.explorer") / "assets"


def page(
    frame: pd.DataFrame, layers: pd.DataFrame, commands: Mapping[str, Command], title: str
) -> str:
    """An HTML page on which the records of a folder can be filtered, compared and looked up.

    Args:
        frame: rows of `lowrank.records.store.load`.
        layers: rows of `lowrank.records.store.load_layers`, of the same records.
        commands: by the key of a record what measures it again, or why nothing does.
        title: of the page.

    Raises:
        ValueError: there is no record, or as `lowrank.reporting.explorer.data.comparison`.
    """
    if frame.empty:
        raise ValueError("there is no record to show: the selection left none")
    script = "\n".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS)
    script = f'"use strict";\n{script}'
    style = (ASSETS / "style.css").read_text("utf-8")
    parts = comparisons(frame)
    found = [comparison(name, part, layers, commands) for name, part in parts]
    plain = _in_base64(_json({"title": title, "parts": found}))
    left = MOST_BYTES - len(script) - len(style) - len(plain)
    outcomes, chunks = packed([part for _, part in parts], left * 3 // 4)
    names = {
        "title": html.escape(title),
        "policy": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        **{"style": style, "script": script, "data": plain, "chunks": _in_base64(chunks)},
        "outcomes": _in_base64(_json(outcomes)),
    }
    return Template((ASSETS / "page.html").read_text("utf-8")).substitute(names)


def _json(value: object) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _in_base64(content: bytes) -> str:
    """Bytes in the format "deflate" of the Compression Streams of browsers, as text."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _hash(text: str) -> str:
    """The name of an inline script or style in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
