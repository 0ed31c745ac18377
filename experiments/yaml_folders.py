"""The folders of the YAML of sweeps: this project's and the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

# In an installed package a folder, in a checkout a link to the folder conf.
CONF = (Path(__file__).resolve().parent / "conf").resolve()


def own() -> Path | None:
    """The folder conf where the user is, if there is one and it is not this project's."""
    folder = Path.cwd() / "conf"
    return folder if folder.is_dir() and folder.resolve() != CONF else None


def check_own() -> None:
    """Stop where a choice of the user's has the name of one of this project's and says something
    else: Hydra would take the latter without a word.

    Raises:
        SystemExit: the text names the file.
    """
    folder = own()
    if folder is None:
        return
    groups = [path for path in CONF.iterdir() if path.is_dir()]
    choices = [path.relative_to(CONF) for group in groups for path in group.rglob("*.yaml")]
    both = [choice for choice in choices if (folder / choice).is_file()]
    unlike = [one for one in both if (folder / one).read_bytes() != (CONF / one).read_bytes()]
    if unlike:
        sys.exit(
            f"{folder / min(unlike)} has the name of a choice of lowrank's own, which would be "
            "taken in its place: give it another name"
        )
