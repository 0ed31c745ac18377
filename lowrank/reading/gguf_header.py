"""The header of a GGUF file: its metadata, and where its tensors are; no number is read.

The `gguf` package takes memory for each item that a header claims to have, so it is read here.

Source: the specification of GGUF (ggml, docs/gguf.md).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Of a type of values, its letter in `struct`.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
# The prefix of what may be long, and is not needed.
VOCABULARY = "tokenizer."
# The longest text, and the most values of a list, that are read.
LONGEST = 2**16
MOST_AXES = 4


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file.

    Attributes:
        shape: as in torch, the last axis being the one whose numbers lie side by side.
        kind: the name of its type in GGUF.
        start: of its bytes in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        metadata: without that of the tokenizer.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """The header of a file, checked against its length.

    Raises:
        ValueError: it is no such file, of another version, truncated, or has tensors of types that
            do not exist or that lie beyond its end or over each other.
    """
    size = path.stat().st_size
    if size < 24:
        raise ValueError(f"{path} is no GGUF file: it has {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data, size).header()
        except ValueError as error:
            raise ValueError(f"{path} is no GGUF file that is read: {error}") from error


@dataclass
class _Reader:
    """The bytes of a file, read from front to back."""

    data: mmap.mmap
    size: int
    place: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)

    def header(self) -> GgufHeader:
        if self.take(4) != MAGIC:
            raise ValueError(f"it does not begin with {MAGIC!r}")
        version = self.number("I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}, and read are {VERSIONS}, little-endian")
        tensors, values = self.number("Q"), self.number("Q")
        self.check_room("tensors", tensors, 24)
        self.check_room("values", values, 13)
        for _ in range(values):
            key = self.text("a key")
            if key in self.metadata:
                raise ValueError(f"it has two values of {key!r}")
            value = self.value(key, self.number("I"))
            if not key.startswith(VOCABULARY):
                self.metadata[key] = value
        return GgufHeader(self.metadata, self.tensors(tensors))

    def tensors(self, count: int) -> dict[str, GgufTensor]:
        entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(count):
            name, axes = self.text("a name of a tensor"), self.number("I")
            if name in entries or not 1 <= axes <= MOST_AXES:
                why = "is there twice" if name in entries else f"has {axes} axes"
                raise ValueError(f"{name!r} {why}")
            shape = tuple(self.number("Q") for _ in range(axes))[::-1]
            entries[name] = (shape, self.number("I"), self.number("Q"))
        step = self.metadata.get("general.alignment", 32)
        if not isinstance(step, int) or not 1 <= step <= LONGEST or step & (step - 1):
            raise ValueError(f"general.alignment is {step!r}, and must be a power of two")
        first = self.place + -self.place % step
        found = [_tensor(name, *entry, first) for name, entry in entries.items()]
        end = first
        for one in sorted(found, key=lambda one: one.start):
            if one.start < end or one.start + one.nbytes > self.size or one.start % step:
                raise ValueError(
                    f"{one.name!r}, {one.shape} of {one.kind}, cannot lie at byte {one.start} of "
                    f"{self.size}: it is truncated, or two tensors overlap"
                )
            end = one.start + one.nbytes
        return {one.name: one for one in found}

    def take(self, count: int) -> bytes:
        self.check_room("bytes", count, 1)
        self.place += count
        return self.data[self.place - count : self.place]

    def check_room(self, what: str, count: int, least: int) -> None:
        """Raise ValueError if that many of at least so many bytes do not fit into the rest."""
        left = self.size - self.place
        if count * least > left:
            raise ValueError(f"it is truncated: {count} {what} at byte {self.place}, {left} left")

    def number(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))[0]

    def text(self, what: str) -> str:
        length = self.number("Q")
        if length > LONGEST:
            raise ValueError(f"{what} at byte {self.place} has {length} bytes, at most {LONGEST}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{what} is no text: {error}") from error

    def value(self, key: str, kind: int) -> Any:
        """A value; None of the tokenizer, which is passed over."""
        is_needed = not key.startswith(VOCABULARY)
        if kind == LIST:
            kind, count = self.number("I"), self.number("Q")
            if is_needed and count > LONGEST:
                raise ValueError(f"{key} has {count} values, at most {LONGEST} are read")
            if kind in SCALARS and not is_needed:
                self.skip(count * struct.calcsize(SCALARS[kind]))
                return None
            self.check_room("values", count, 8 if kind == TEXT else 1)
            found = (self.single(key, kind, is_needed) for _ in range(count))
            return [one for one in found if is_needed]
        return self.single(key, kind, is_needed)

    def single(self, key: str, kind: int, is_needed: bool) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != TEXT:
            raise ValueError(f"{key} is of type {kind}, and read are {[*SCALARS, TEXT]}")
        if is_needed:
            return self.text(key)
        self.skip(self.number("Q"))
        return None

    def skip(self, count: int) -> None:
        self.check_room("bytes", count, 1)
        self.place += count


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int, first: int) -> GgufTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        known = GGMLQuantizationType(kind)
    except ValueError as error:
        raise ValueError(f"{name!r} is of type {kind}, which GGUF has not") from error
    block, width = GGML_QUANT_SIZES[known]
    if shape[-1] % block:
        raise ValueError(f"{name!r} has rows of {shape[-1]}, no blocks of {block} of {known.name}")
    return GgufTensor(name, shape, known.name, first + offset, math.prod(shape) // block * width)
