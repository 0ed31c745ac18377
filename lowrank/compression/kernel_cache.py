"""The cache of expensive kernels on disk, which processes and machines share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
import xxhash

from lowrank.files.atomic import prove_writable
from lowrank.files.kernel_folder import KernelFolder
from lowrank.files.paths import as_path
from lowrank.measure.environment import environment
from lowrank.numerics import memo
from lowrank.numerics.checks import check_number

PACKAGE = Path(__file__).resolve().parents[1]
# Facts of the environment that change no number by themselves.
BESIDE = ("git_commit", "git_dirty", "threads")


@contextmanager
def kernel_cache(folder: str | Path | None, gigabytes: float = 20.0) -> Iterator[None]:
    """Keep results of expensive kernels in a folder, and take them from there, inside.

    Such are singular value decompositions of weights, factors of their statistics and, for the
    models of tasks, the calibration itself. A result is kept if computing it took longer than
    reading it. It is used for the same numbers, threads, processor, libraries and code of lowrank
    alone, so what is computed with it is the same to the bit. What is damaged is computed anew.

    It pays where several processes compress the same weights, or one does so again; a single
    process keeps its results in memory as well. Iterative methods, and calibration in sequence,
    whose intermediate matrices never occur again, do not use it.

    Args:
        folder: made if it is not there; None keeps nothing on disk.
        gigabytes: of all files; beyond that those not used for longest are removed.

    Raises:
        ValueError: the folder cannot be written, or a limit that is none.
    """
    check_number("gigabytes", gigabytes, "be above 0 and finite", lambda x: 0 < x < float("inf"))
    if folder is None:
        yield
        return
    place = as_path(folder, "folder")
    check_place(place)
    before = memo.MEMO.shelf
    memo.MEMO.shelf = KernelFolder(place, int(gigabytes * 1e9), _stamp())
    try:
        yield
    finally:
        memo.MEMO.shelf = before


def check_place(folder: Path) -> None:
    """Make the folder, and prove that it can be written; raises ValueError if it cannot."""
    try:
        prove_writable(folder)
    except OSError as error:
        raise ValueError(
            f"the kernel cache {folder} cannot be written: {error.strerror or error}. Name a "
            "folder that you may write to, or none"
        ) from error


@functools.cache
def _stamp() -> str:
    """What a result depends on besides its own numbers."""
    facts = {name: value for name, value in environment().items() if name not in BESIDE}
    facts["tensorly"] = metadata.version("tensorly")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    facts["devices"] = [torch.cuda.get_device_name(number) for number in range(count)]
    facts["code"] = _hash(sorted(PACKAGE.rglob("*.py")))
    return str(sorted(facts.items()))


def code_of(classes: Iterable[type]) -> str | None:
    """A hash of the files in which classes are; None if one is in none, as in a notebook."""
    try:
        files = {inspect.getsourcefile(one) for one in classes}
    except (OSError, TypeError):
        return None
    paths = [Path(file) for file in files if file]
    if len(paths) < len(files) or not all(path.is_file() for path in paths):
        return None
    return _hash(sorted(paths))


def _hash(paths: Iterable[Path]) -> str:
    digest = xxhash.xxh3_128()
    for path in paths:
        digest.update(f"{path.name} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
