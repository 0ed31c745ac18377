"""Paths of arguments, and a check of whether a file may be replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def as_path(value: object, name: str = "path") -> Path:
    """A path from a text or another path.

    Args:
        name: of the argument, for errors.

    Raises:
        ValueError: something else, or a path that no file has.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str):
        raise ValueError(f"{name}={value!r} must be a path: a text or a pathlib.Path")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}={text!r} is no path: {error.reason}") from error
    if not text or "\0" in text:
        what = "has a character of code 0" if text else "is empty"
        raise ValueError(f"{name}={text!r} {what}, and no file is called so")
    return Path(text)


def check_replaceable(path: Path, target: Path) -> None:
    """Raise ValueError unless nothing is at `target`, or a file that another can take the place of.

    Args:
        path: as it was given, for errors.
        target: where its links lead to.

    Raises:
        OSError: what is there cannot be seen.
    """
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a folder: name a file to write to")
    if stat.S_ISLNK(mode):
        raise ValueError(f"{path} is a link that leads back to itself: name a file to write to")
    raise ValueError(
        f"{path} is no file but a device, pipe or socket, which a file would take the place of: "
        "name a file to write to"
    )
