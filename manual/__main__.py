"""Build the site: `python -m manual [FOLDER]`, by default into site/.

Sphinx writes it from a folder of sources that is made for each build: the pages as they are, and
those that are made from code and results. Every warning is an error, and the links of the built
site are looked at once more.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

from manual.links import faults
from manual.sources import ROOT, write_sources


def build(out: Path) -> None:
    """Write the site into a folder, of which nothing older stays.

    Raises:
        SystemExit: Sphinx warns, or a link or a file of the site leads nowhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Executed notebooks are left beside the site, so it is made here and moved at the end.
        sources, doctrees, made = (Path(folder) / name for name in ("sources", "doctrees", "site"))
        write_sources(sources)
        arguments = ["--conf-dir", Path(__file__).parent, "--doctree-dir", doctrees]
        options = ["--builder", "html", "--fail-on-warning", "--quiet"]
        if build_main([*options, *map(str, [*arguments, sources, made])]):
            raise SystemExit("the site has errors or warnings, which are above")
        found = faults(made)
        if found:
            raise SystemExit("\n".join(["the site has faults:", *found]))
        if out.exists():
            shutil.rmtree(out)
        shutil.move(made, out)
    print(f"{len([*out.rglob('*.html')])} pages: {out / 'index.html'}")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site")
