"""The tensors in the safetensors files of a folder: what they are is known before any is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lowrank.files.tensor_files import NAMES, check_file
from lowrank.model.contents import names_of


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        name: in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Any

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, shape: tuple[int, ...], *dtypes: torch.dtype) -> Tensor:
        """The tensor, on the CPU.

        Args:
            shape: that it must have.
            dtypes: one of which it must have.

        Raises:
            ValueError: it is another one; nothing is read then.
        """
        if self.shape != shape or self.dtype not in dtypes:
            allowed = " or ".join(map(str, dtypes))
            raise ValueError(
                f"'{self.name}' is {self.shape} {self.dtype}, and must be {shape} {allowed}"
            )
        return self.file.get_tensor(self.name)

    def read_one(self, number: int) -> Tensor:
        """The part at a number along its first axis, of a tensor in a shard."""
        return self.file.get_one(self.name, number)


@contextmanager
def stored_in(folder: Path) -> Iterator[dict[str, StoredTensor]]:
    """The tensors of all safetensors files of a folder, by name, while they are open.

    Raises:
        ValueError: there is no such file, one is damaged or a pickle, or two have the same tensor.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"no *.safetensors file is in {folder}")
    found: dict[str, StoredTensor] = {}
    with ExitStack() as stack:
        for path in files:
            file = stack.enter_context(opened(path))
            for name, (shape, dtype) in described(path, file, file.keys()).items():
                if name in found:
                    raise ValueError(f"{path}: '{name}' is in two files")
                found[name] = StoredTensor(name, shape, dtype, file)
        yield found


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open.

    Raises:
        ValueError: it is truncated or otherwise damaged, or a pickle.
    """
    check_file(path)
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no whole safetensors file: {error}. Copy or download it again"
        ) from error
    with file:
        yield file


def described(
    path: Path, file: Any, names: Iterable[str]
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """The shapes and dtypes of tensors of an open file, by name in this order.

    Raises:
        ValueError: one has a dtype that is not known.
    """
    found = {}
    for name in names:
        part = file.get_slice(name)
        code = part.get_dtype()
        if code not in NAMES:
            raise ValueError(f"{path}: '{name}' is {code}, a dtype that is not known")
        found[name] = tuple(part.get_shape()), NAMES[code]
    return found


class LayerTensors(Mapping[str, StoredTensor]):
    """The tensors of one layer, by what follows its name; `left` are those that nobody asked for.

    Args:
        layer: its name.
    """

    def __init__(self, layer: str, tensors: Mapping[str, StoredTensor]) -> None:
        self.layer = layer
        self._found = dict(tensors)
        self.left = set(tensors)

    def __getitem__(self, name: str) -> StoredTensor:
        if name not in self._found:
            found = names_of(sorted(self._found))
            raise ValueError(f"'{self.layer}' lacks '{name}': it has {found}")
        self.left.discard(name)
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them but a bias."""
        return sum(part.nbytes for name, part in self._found.items() if name != "bias")
