"""The order of the site's pages: the sections of docs/README.md, and what the site adds."""

from __future__ import annotations

import re
from pathlib import Path

_HEADING = re.compile(r"^## (.+)$", flags=re.MULTILINE)
_LINK = re.compile(r"\]\(([\w.-]+)\.md\)")


def sections(index: Path) -> dict[str, list[str]]:
    """The pages of each section of an index page, in its order, without their ending."""
    parts = _HEADING.split(index.read_text(encoding="utf-8"))
    return {
        title: list(dict.fromkeys(_LINK.findall(text)))
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def toctree(caption: str, pages: list[str]) -> str:
    """The entry of a group of pages in the site's navigation."""
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def navigation(docs: Path, own: dict[str, list[str]]) -> str:
    """The navigation of the site: the pages of docs/, then the groups that the site makes.

    A page of docs/ that no section names comes last among them, under "More".

    Args:
        docs: the folder of pages, README.md its index.
        own: the groups of further pages, by their caption.
    """
    groups = sections(docs / "README.md")
    named = {page for pages in groups.values() for page in pages}
    more = sorted({path.stem for path in docs.glob("*.md")} - named - {"README"})
    groups = {title: [f"docs/{page}" for page in pages] for title, pages in groups.items()}
    groups |= {"More": [f"docs/{page}" for page in more]} | own
    return "\n".join(toctree(caption, pages) for caption, pages in groups.items() if pages)
