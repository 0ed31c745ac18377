"""Atomic writes: a file, or a folder of files, appears whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from safetensors import SafetensorError

from lowrank.files.paths import check_replaceable
from lowrank.files.processes import LABEL, is_of_the_gone, short, this_process

# Seconds without a change after which no process is still writing a file.
ABANDONED = 24 * 3600
# How often a file is looked for that is replaced again and again.
TRIES = 10
# The name of a temporary file: a hash of the target's name, and the process, its machine and its
# start. Short, because a target of 255 characters must have one, too.
TEMPORARY = re.compile(rf"\.lowrank-\w{{8}}-{LABEL}-\w{{8}}\.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to, which takes its place if the block ends without error.

    The new file lies in the same folder, because a rename is atomic only within one file system. It
    is flushed to the disk before the rename, so that no crash leaves an empty file under `path`. If
    `path` is a link, the file that it points to is replaced. The first call for a folder removes
    the temporary files that killed processes left there.

    Raises:
        ValueError: at `path` is something that is no file, such as a folder, a device or a pipe.
        OSError: the file cannot be written; the text names `path`.
    """
    target = Path(os.path.realpath(path))
    with _naming(path, {str(target)}):
        check_replaceable(path, target)
    temporary = temporary_in(target.parent, target.name)
    with _naming(path, {str(temporary), str(target.parent)}):
        _clean_once(target.parent)
        # Made here for its permissions, which some writers narrow to the owner's.
        temporary.touch(exist_ok=False)
        try:
            mode = temporary.stat().st_mode
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(mode)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to write into, which is renamed to it if the block ends without
    error, and removed otherwise. Its files are flushed to the disk before, as by `replacing`.

    Raises:
        ValueError: as `check_new`.
        OSError: the folder cannot be made, or a file in it; the text names `path`.
    """
    check_new(path)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_in(target.parent, target.name)
    with _naming(path, {str(temporary), str(target.parent)}):
        _clean_once(target.parent)
        temporary.mkdir()
        try:
            yield temporary
            # Some writers narrow the permissions of their files to the owner's.
            mode = temporary.stat().st_mode & 0o666
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(mode)
                    with open(file, "rb") as written:
                        os.fsync(written.fileno())
            os.rename(temporary, target)  # Takes the place of an empty folder.
        except (SafetensorError, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise
            # As libraries say that the disk is full.
            raise OSError(f"{path} cannot be written: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_new(path: Path) -> None:
    """Raise ValueError unless a new folder can be at `path`, or take the place of what is there."""
    check_empty(path)
    # A program that runs in a folder stays in the one that was replaced, and sees nothing of it.
    if path.is_dir() and path.samefile("."):
        raise ValueError(f"{path} is the folder that this runs in: name a new one inside of it")
    if os.path.ismount(os.path.realpath(path)):
        raise ValueError(f"{path} is where a disk is mounted: name a new folder inside of it")


def check_empty(path: Path) -> None:
    """Raise ValueError unless an empty folder is at `path`, or one can be made there."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        raise ValueError(f"{path} is there already: remove it, or name another folder")
    above = next(one for one in Path(os.path.abspath(path)).parents if os.path.lexists(one))
    if not above.is_dir():
        raise ValueError(f"{path} cannot be made, since {above} is no folder: name another")


def prove_writable(folder: Path) -> None:
    """Make a folder if it is not there, and write into it.

    Raises:
        OSError: that cannot be.
    """
    probe = temporary_in(folder, "probe")
    folder.mkdir(parents=True, exist_ok=True)
    probe.touch()
    probe.unlink()


def temporary_in(folder: Path, name: str) -> Path:
    """A path in `folder` for something that stands in for `name`, and that `clean` would remove."""
    unique = uuid.uuid4().hex[:8]
    return folder / f".lowrank-{short(name)}-{this_process().label}-{unique}.tmp"


def clock(folder: Path) -> float:
    """The time by the clock of the file system of a folder, in seconds.

    Those of the machines that share it may differ from it, and from each other, by any time.

    Raises:
        OSError: the folder cannot be written.
    """
    probe = temporary_in(folder, "clock")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def clean(folder: str | Path) -> None:
    """Remove the temporary files that killed processes left in a folder.

    Safe while other processes write, on this machine or on another that shares the folder: only
    files of ended processes of this machine, and files unchanged for a day by the clock of the file
    system, are removed.

    Raises:
        OSError: the folder cannot be read or changed.
    """
    now = None
    for entry in os.scandir(folder):
        found = TEMPORARY.fullmatch(entry.name)
        if found is None:
            continue
        try:
            if not is_of_the_gone(found):
                now = clock(Path(folder)) if now is None else now
                if now - entry.stat(follow_symlinks=False).st_mtime <= ABANDONED:
                    continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        except (FileNotFoundError, PermissionError):
            continue  # Its writer has ended, another one removed it, or it is another user's.


@cache
def _clean_once(folder: Path) -> None:
    """Clean a folder where this process has not yet: each look takes as long as there are files."""
    clean(folder)


@contextmanager
def _naming(path: Path, instead_of: set[str]) -> Iterator[None]:
    """Name the file that was asked for in an OSError, not what was touched on the way to it."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in {None, *instead_of}:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_replaced(path: Path, most: int = -1) -> tuple[bytes, float]:
    """The content of a file that other machines may replace or remove, and when it was changed.

    Args:
        most: bytes; all if not given.

    Raises:
        OSError: it cannot be read, or is no longer there.
    """
    for _ in range(TRIES):
        try:
            with path.open("rb") as stream:
                return stream.read(most), os.fstat(stream.fileno()).st_mtime
        except OSError as error:
            # What NFS says of a file that another machine has removed since it was opened.
            if error.errno != errno.ESTALE:
                raise
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
