"""The pages for readers, with their blocks, inline code, links and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# Of each folder of reference results.
RESULTS = sorted((ROOT / "results").glob("*/README.md"))
LANGUAGES = {"python", "sh", "text", "yaml"}
# What inline code starts with that is a command.
PROGRAMS = ("python ", "make ", "pip ", "git ", "cd ", ". ")

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)

# A block that ends in an error, and what it says.
_REFUSED = re.compile(
    r"^```(python|sh)\n([^`]*?)^```\n\n```text\n((?:\w+Error: |Nothing was run|Could not).*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)
_BEFORE = re.compile(r"^\| before \|.*\n(?:\|.*\n)+", flags=re.MULTILINE)
_FIRST_CELL = re.compile(r"^\|[^|]*\|", flags=re.MULTILINE)


def name(page: Path) -> str:
    """As tests call it."""
    return str(page.relative_to(ROOT))


def languages(page: Path) -> list[str]:
    """Of the blocks of a page."""
    return [language for language, _ in _BLOCK.findall(page.read_text())]


def blocks(page: Path, language: str) -> list[str]:
    """The texts of a page's blocks in a language."""
    return [text for own, text in _BLOCK.findall(page.read_text()) if own == language]


def refused(page: Path, language: str) -> dict[str, str]:
    """The blocks of a page that end in an error, and what that is, on one line."""
    found = _REFUSED.findall(page.read_text())
    return {text: " ".join(error.split()) for own, text, error in found if own == language}


def prose(page: Path) -> str:
    """A page without its blocks, and without what tables say was before."""
    text = _BLOCK.sub("", page.read_text())
    return _BEFORE.sub(lambda table: _FIRST_CELL.sub("|", table[0]), text)


def inline(page: Path) -> list[str]:
    """The pieces of inline code of a page."""
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose(page))]


def commands(page: Path) -> list[str]:
    """The commands of a page that can be, in their order, on one line; `a && b` are two."""
    runs = [block for block in blocks(page, "sh") if block not in refused(page, "sh")]
    lines = "".join(runs).replace("\\\n", " ").splitlines()
    lines += [code for code in inline(page) if code.startswith(PROGRAMS)]
    found = []
    for line in lines:
        words, parts = shlex.split(line, comments=True), [[]]
        for word in words:
            parts.append([]) if word == "&&" else parts[-1].append(word)
        found += [shlex.join(part) for part in parts if part]
    return found


def links(page: Path) -> list[str]:
    """The targets of a page's links and images that lead to files here."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if "://" not in target]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}
