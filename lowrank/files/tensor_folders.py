"""Folders of tensors and JSON: several files of `tensor_files`, and an index that is written last.

A folder without its index is not whole. The index holds the hash of each file and its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowrank.files.atomic import replacing
from lowrank.files.digest import Digest
from lowrank.files.fields import Fields, parse, shown
from lowrank.files.tensor_files import TensorFile, check_format, opened

INDEX = "lowrank.index.json"
# What a file of such a folder is, its format, and what writes it.
PART, PART_FORMAT, BY = "part", 1, "lowrank.compress_checkpoint"


@dataclass(frozen=True)
class TensorFolder(TensorFile):
    """An open folder: what it holds is known, and nothing of it is read yet.

    Attributes:
        parts: its files, by name.
    """

    parts: Mapping[str, TensorFile]

    def read(self) -> tuple[dict[str, Tensor], bool]:
        """The tensors, on the CPU, and True: they are what was written.

        Raises:
            ValueError: a file is damaged; the text names it.
        """
        tensors: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            found, is_whole = part.read()
            if not is_whole:
                raise ValueError(f"{name} is damaged: its content is not what was written")
            tensors |= found
        return tensors, True


def opened_part(path: Path) -> TensorFile:
    """A file of a folder; no numbers are read.

    Raises:
        ValueError: it is another or a damaged file.
    """
    with opened(path, PART, PART_FORMAT, BY) as file:
        return file


def write_index(
    folder: Path, kind: str, header: Mapping[str, Any], parts: Mapping[str, TensorFile]
) -> None:
    """Write the index of files that are there, whole or not at all.

    Args:
        kind: what the folder is, such as ``model``.
        header: JSON.
        parts: by the names of the files.

    Raises:
        OSError: it cannot be written.
    """
    content = {
        "kind": kind,
        **header,
        "parts": {name: part.hash for name, part in parts.items()},
        "weight_map": {tensor: name for name, part in parts.items() for tensor in part.shapes},
    }
    with replacing(folder / INDEX) as file:
        text = json.dumps(content | {"hash": Digest(content).hex()}, allow_nan=False, indent=1)
        file.write_text(text + "\n", "utf-8")


@contextmanager
def opened_folder(
    folder: Path, kind: str, form: int, by: str, oldest: int
) -> Iterator[TensorFolder]:
    """Open a folder of `write_index`; a ValueError in the block is given its name.

    Args:
        kind: what it must be.
        form, oldest: the newest and oldest format of the header that are known.
        by: what writes such folders, for errors.

    Raises:
        ValueError: it is another folder, not finished, or damaged.
    """
    if not (folder / INDEX).is_file():
        raise ValueError(
            f"{folder} is no file, and has no {INDEX}: {by} has not written it, or not to its end"
        )
    try:
        yield _opened(folder, kind, (oldest, form), by)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _opened(folder: Path, kind: str, known: tuple[int, int], by: str) -> TensorFolder:
    header = Fields(parse((folder / INDEX).read_bytes(), INDEX, once=True), INDEX)
    if header.get("kind") != kind:
        raise ValueError(f"it holds no {kind} saved by {by}, but {shown(header.get('kind'))}")
    check_format(header.get("format"), *known)
    content = {name: value for name, value in header.value.items() if name != "hash"}
    if Digest(content).hex() != header.text("hash"):
        raise ValueError(f"{INDEX} is damaged: its content is not what was written")
    hashes = header.fields("parts")
    parts = {name: _part(folder, name, hashes.text(name)) for name in hashes}
    homes = {tensor: name for name, part in parts.items() for tensor in part.shapes}
    if homes != header.fields("weight_map").value or len(homes) != _count(parts.values()):
        raise ValueError(f"{INDEX} and the files beside it list other tensors")
    return TensorFolder(
        header,
        {name: shape for part in parts.values() for name, shape in part.shapes.items()},
        {name: dtype for part in parts.values() for name, dtype in part.dtypes.items()},
        folder,
        _merged([part._stored for part in parts.values()]),
        header.text("hash"),
        parts,
    )


def _part(folder: Path, name: str, known: str) -> TensorFile:
    if Path(name).name != name:
        raise ValueError(f"{INDEX} lists {shown(name)}, which is no file beside it")
    if not (folder / name).is_file():
        raise ValueError(f"{name} is missing, which {INDEX} lists")
    part = opened_part(folder / name)
    if part.hash != known:
        raise ValueError(f"{name} is not the file that {INDEX} was written for")
    return part


def _count(parts: Any) -> int:
    return sum(len(part.shapes) for part in parts)


def _merged(stored: Sequence[Mapping[str, torch.dtype]]) -> dict[str, torch.dtype]:
    return {name: dtype for one in stored for name, dtype in one.items()}
