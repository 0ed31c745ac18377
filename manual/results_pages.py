"""The pages of results/: its own, with headings, figures and tables that they do not show."""

from __future__ import annotations

from pathlib import Path

from manual.catalogue import ROOT

# What is made of records belongs to whoever made it, and is in no commit.
OWN = "runs"


def pages() -> dict[Path, str]:
    """The pages of all folders of results/, by their places in the repository."""
    found = {}
    for path in sorted((ROOT / "results").glob("*/*.md")):
        text = path.read_text(encoding="utf-8")
        if path.parent.name == OWN:
            continue
        if path.name == "README.md":
            text = f"{text}\n{_rest(path.parent, text)}"
        found[path.relative_to(ROOT)] = titled(text, path.stem)
    return found


def titled(text: str, title: str) -> str:
    """A page with a heading; tables are written without."""
    return text if text.startswith("# ") else f"# {title}\n\n{text}"


def _rest(folder: Path, text: str) -> str:
    """The figures of a folder that its page does not show, and its tables."""
    figures = [path.name for path in sorted(folder.glob("*.png")) if path.name not in text]
    tables = [path for path in sorted(folder.glob("*.md")) if path.name != "README.md"]
    shown = [f"![{Path(name).stem}]({name})" for name in figures]
    listed = [f"- [{path.stem}]({path.name}){_csv(path)}" for path in tables]
    return "\n\n".join([*(["## Figures", *shown] if shown else []), *_list(listed)]) + "\n"


def _list(lines: list[str]) -> list[str]:
    return ["## Tables", "\n".join(lines)] if lines else []


def _csv(table: Path) -> str:
    path = table.with_suffix(".csv")
    return f", [all digits]({path.name})" if path.is_file() else ""
