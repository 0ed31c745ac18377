"""The tensors of a folder of `transformers`: in one file, or in shards that an index lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.files.fields import Fields, parse
from lowrank.files.tensor_files import numbers
from lowrank.model.contents import names_of
from lowrank.reading.stored import StoredTensor, described, opened

WHOLE = "model.safetensors"
INDEX = f"{WHOLE}.index.json"


class Place(NamedTuple):
    """Where a tensor begins in a file, in bytes, and what it is."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class ShardFile:
    """A safetensors file, of which single tensors are read into memory of their own.

    A file that is mapped as a whole would count as memory of the process, page by page.

    Attributes:
        places: of its tensors, by name.
    """

    path: Path
    places: Mapping[str, Place]

    @classmethod
    def of(cls, path: Path) -> ShardFile:
        """The file at a path; no numbers are read.

        Raises:
            ValueError: it is truncated or otherwise damaged, a pickle, or has an unknown dtype.
        """
        with opened(path) as file:
            stored = described(path, file, file.offset_keys())
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
        places = {}
        for name, (shape, dtype) in stored.items():
            places[name] = Place(start, shape, dtype)
            start += math.prod(shape) * dtype.itemsize
        return cls(path, places)

    def get_tensor(self, name: str) -> Tensor:
        """The tensor of a name.

        Raises:
            ValueError: the file has become shorter.
        """
        place = self.places[name]
        return self._read(place.start, place.shape, place.dtype)

    def get_one(self, name: str, number: int) -> Tensor:
        """The part of a tensor at a number along its first axis.

        Raises:
            ValueError: the file has become shorter.
        """
        start, (_, *shape), dtype = self.places[name]
        size = math.prod(shape) * dtype.itemsize
        return self._read(start + number * size, tuple(shape), dtype)

    def _read(self, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with open(self.path, "rb") as file:
            file.seek(start)
            try:
                return numbers(file, shape, dtype)
            except ValueError as error:
                raise ValueError(f"{self.path}: {error}") from error


def checkpoint_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of the model in a folder, by name; no numbers are read.

    Raises:
        ValueError: there is no such file, a shard is missing or damaged, or index and shards do not
            say the same.
    """
    whole, index = folder / WHOLE, folder / INDEX
    if index.is_file():
        files = _listed(index)
    elif whole.is_file():
        files = [ShardFile.of(whole)]
    else:
        raise ValueError(
            f"{folder} has neither {WHOLE} nor {INDEX}: name the folder of a model of transformers "
            "with its weights as safetensors"
        )
    return {
        tensor: StoredTensor(tensor, place.shape, place.dtype, file)
        for file in files
        for tensor, place in file.places.items()
    }


def _listed(index: Path) -> list[ShardFile]:
    """The files of an index, which hold what it says."""
    homes, files = _homes(index), []
    for name in dict.fromkeys(homes.values()):
        file = ShardFile.of(index.parent / name)
        listed = {tensor for tensor, home in homes.items() if home == name}
        lacking, surplus = sorted(listed - file.places.keys()), sorted(file.places.keys() - listed)
        if lacking:
            raise ValueError(f"{index} says that {names_of(lacking)} are in {name}: they are not")
        if surplus:
            raise ValueError(
                f"{file.path} holds {names_of(surplus)}, which {INDEX} has elsewhere or not at "
                "all: one of the two is of another model"
            )
        files.append(file)
    return files


def _homes(index: Path) -> dict[str, str]:
    """The file of each tensor, by an index."""
    try:
        fields = Fields(parse(index.read_bytes(), "the index", once=True), "the index")
        homes = fields.fields("weight_map")
        found = {tensor: homes.text(tensor) for tensor in homes}
    except ValueError as error:
        raise ValueError(f"{index}: {error}") from error
    if not found:
        raise ValueError(f"{index} lists no tensors")
    names = sorted(set(found.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise ValueError(f"{index}: {names_of(outside)} are no names of files beside it")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{index} lists {len(names)} files, of which {names_of(missing)} are not there: copy "
            "or download them again"
        )
    return found
