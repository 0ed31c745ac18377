"""What a program needs besides the library, looked for before all else that it does."""

from __future__ import annotations

import sys

from lowrank.files.extras import MissingExtra, need

# Of whatever draws or tabulates; see `lowrank.reporting`.
REPORTS = ("pandas", "matplotlib", "tabulate")


def require(program: str, *libraries: str) -> None:
    """End a program whose libraries are not installed.

    Args:
        libraries: by the names under which they are imported.

    Raises:
        SystemExit: one is not; the text, one line, has the command that installs it.
    """
    try:
        need(program, *libraries)
    except MissingExtra as error:
        sys.exit(f"{error}")
