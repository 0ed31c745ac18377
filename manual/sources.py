"""The sources of the site: the pages of this repository, and those that are made."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from manual import api_pages, method_pages, results_pages
from manual.catalogue import ROOT, methods
from manual.choices import decision_table
from manual.measured import measured
from manual.navigation import navigation

# What is taken over as it is, into the same places, so that links hold.
TAKEN = (
    *("CHANGELOG.md", "CITATION.cff", "docs/*.md", "notebooks/*.ipynb"),
    *("results/*/*.png", "results/*/*.csv"),
)
# Where a page of docs/ says this, the site shows the table that is made of results/.
CHOICES = "<!-- the site: what was best at each size -->"

_CODE = re.compile(r"(?<!\[)`(\w+)`(?!\])")


def write_sources(folder: Path) -> None:
    """Write all pages into a folder that is not there yet, as Sphinx reads them."""
    for pattern in TAKEN:
        for path in sorted(ROOT.glob(pattern)):
            if path.parent.name != results_pages.OWN:
                _copy(path, folder / path.relative_to(ROOT))
    for place, text in results_pages.pages().items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text, encoding="utf-8")
    all_methods, results = methods(), measured()
    method_pages.write(folder / "docs" / "methods", all_methods, results)
    names = api_pages.write(folder / "api")
    best = decision_table(all_methods, results)
    names_of_methods = {method.name for method in all_methods}
    for page in (folder / "docs").glob("*.md"):
        text = page.read_text(encoding="utf-8").replace("(../README.md", "(../index.md")
        text = _linked(text, names_of_methods).replace(CHOICES, best)
        page.write_text(text, encoding="utf-8")
    tree = navigation(
        ROOT / "docs",
        {
            "Methods": ["docs/methods/index"],
            "Results": _pages(folder, "results/*/README.md"),
            "Notebooks": _pages(folder, "notebooks/*.ipynb"),
            "API": [f"api/{name}" for name in names],
            "Project": ["CHANGELOG"],
        },
    )
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    (folder / "index.md").write_text(f"{front}\n{tree}", encoding="utf-8")


def _linked(text: str, methods: set[str]) -> str:
    """A page with the methods that its tables name as links to their pages."""
    return "\n".join(
        _CODE.sub(lambda found: _link(found, methods), line) if line.startswith("| `") else line
        for line in text.split("\n")
    )


def _link(found: re.Match[str], methods: set[str]) -> str:
    return f"[{found[0]}](methods/{found[1]}.md)" if found[1] in methods else found[0]


def _pages(folder: Path, pattern: str) -> list[str]:
    """The pages of a pattern, as the navigation names them."""
    return [str(page.relative_to(folder).with_suffix("")) for page in sorted(folder.glob(pattern))]


def _copy(path: Path, there: Path) -> None:
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, there)
