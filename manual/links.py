"""Faults of a built site: what leads nowhere, and what a reader's network would have to fetch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself; links are followed by the reader.
_FETCHED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class _Page(HTMLParser):
    """The anchors, links and fetched files of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := values.get(key))}
        target = values.get("href" if tag == "a" else _FETCHED.get(tag, ""))
        if target:
            self.targets.append((target, tag != "a"))


def faults(site: Path) -> list[str]:
    """What is wrong in a site, one line each; of links to other sites only that they are links.

    Args:
        site: the folder of the built site.
    """
    read = cache(_read)
    return [
        f"{page.relative_to(site)}: {fault}"
        for page in sorted(site.rglob("*.html"))
        for fault in _faults_of(page, site.resolve(), read)
    ]


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _faults_of(path: Path, site: Path, read) -> Iterator[str]:
    for target, is_fetched in read(path).targets:
        parts = urlsplit(target)
        if parts.scheme == "data":
            continue
        if parts.scheme or parts.netloc:
            if is_fetched:
                yield f"fetches {target} from another site"
            continue
        there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not there.is_relative_to(site) or not there.is_file():
            yield f"{target} leads nowhere"
        elif parts.fragment and there.suffix == ".html":
            if unquote(parts.fragment) not in read(there).anchors:
                yield f"{target}: the page has no such anchor"
