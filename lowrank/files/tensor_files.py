"""Files of tensors and JSON, never pickle: safetensors with the description of the tensors as JSON.

Each tensor is stored in the fewest bits that hold its numbers (`storage.stored_dtype`) and comes
back in its own dtype. A hash detects a damaged file. It is no protection against a forged file, so
everything that is read is checked as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lowrank.files.atomic import replacing
from lowrank.files.digest import Digest, bytes_of
from lowrank.files.fields import Fields, parse, shown
from lowrank.numerics.storage import dtype_name, stored_dtype

# The names of dtypes in safetensors.
NAMES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# The key of the metadata in a safetensors header.
RESERVED = "__metadata__"
CODES = {dtype: code for code, dtype in NAMES.items()}
WIDER = {"float32": torch.float32, "float64": torch.float64}
# The first bytes of files by `torch.save` and `pickle.dump`.
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def write(path: Path, tensors: Mapping[str, Tensor], kind: str, header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header, whole or not at all.

    Args:
        tensors: on any device but meta, of plain layout.
        kind: what the file is, such as ``model``.
        header: JSON.

    Raises:
        ValueError: a tensor that no such file holds, by its name, or a header that is no JSON.
        OSError: the file cannot be written.
    """
    for name, tensor in tensors.items():
        check_storable(name, tensor)
    dtypes = {name: stored_dtype(tensor) for name, tensor in tensors.items()}
    wider: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if dtypes[name] != tensor.dtype:
            wider.setdefault(dtype_name(tensor.dtype), []).append(name)
    content = {"kind": kind, **header, "dtypes": wider}
    text, digest = _text(content), Digest(content)
    entries = _entries(tensors, dtypes)
    with replacing(path) as file, open(file, "w+b") as out:
        # The hash is known last and stands first, so its place is reserved.
        out.write(_first(entries, text, "0" * 32))
        for name in entries:
            stored = tensors[name].detach().resolve_conj().resolve_neg()
            stored = stored.to("cpu", dtypes[name]).contiguous()
            digest.add(name, stored)
            out.write(bytes_of(stored))
        out.seek(0)
        out.write(_first(entries, text, digest.hex()))


def _text(content: Mapping[str, Any]) -> str:
    """JSON that can be read again."""
    try:
        text = json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"this cannot be saved, since it is no JSON: {error}") from error
    parse(text, "what is to be saved")
    return text


def _entries(
    tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]
) -> dict[str, dict[str, Any]]:
    """The entry of each tensor in a safetensors header, in the order in which they are written."""
    # Long numbers first, so that each lies at a multiple of its length.
    order = sorted(tensors, key=lambda name: -dtypes[name].itemsize)
    end, entries = 0, {}
    for name in order:
        shape, start, dtype = list(tensors[name].shape), end, dtypes[name]
        end += tensors[name].numel() * dtype.itemsize
        entries[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": [start, end]}
    return entries


def _first(entries: Mapping[str, Any], text: str, digest: str) -> bytes:
    """The length of a safetensors header, and the header, filled up with blanks."""
    return header_bytes({"format": "pt", "lowrank": text, "hash": digest}, entries)


def header_bytes(metadata: Mapping[str, str], entries: Mapping[str, Any]) -> bytes:
    """The start of a safetensors file up to the numbers, its metadata in the order given."""
    header = json.dumps({RESERVED: metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def check_storable(name: str, tensor: Tensor) -> None:
    """Raise ValueError, naming the tensor, unless a file can hold it."""
    check_name(name)
    is_plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    if not is_plain or tensor.is_quantized:
        what = f"a {type(tensor).__name__} of layout {tensor.layout}"
    elif tensor.is_meta:
        what = "on the meta device, without numbers: load the weights, or leave offloading off"
    elif tensor.dtype not in CODES:
        what = f"of {tensor.dtype}"
    else:
        return
    raise ValueError(
        f"'{name}' cannot be saved: it is {what}. Only plain tensors in memory can be."
    )


def check_name(name: str) -> None:
    """Raise ValueError unless a file can have a tensor of this name."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r} cannot be saved: as a name, {error.reason}") from error
    if name == RESERVED:
        raise ValueError(
            f"'{name}' cannot be saved: safetensors files keep that name for their header. Give "
            "the parameter or buffer another one"
        )


@dataclass(frozen=True)
class TensorFile:
    """An open file: what it holds is known, and nothing of it is read yet.

    Attributes:
        header: its JSON.
        shapes, dtypes: of each tensor, as it was before it was stored.
        hash: of the content, as the file says itself; `read` compares it.
    """

    header: Fields
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    _path: Path
    _stored: Mapping[str, torch.dtype]  # In the order of their numbers.
    hash: str

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors in memory."""
        sizes = (torch.Size(shape).numel() for shape in self.shapes.values())
        dtypes = self.dtypes.values()
        return sum(n * dtype.itemsize for n, dtype in zip(sizes, dtypes, strict=True))

    def stored_bytes(self) -> dict[str, int]:
        """Bytes of each tensor in the file."""
        return {
            name: math.prod(self.shapes[name]) * dtype.itemsize
            for name, dtype in self._stored.items()
        }

    def read(self) -> tuple[dict[str, Tensor], bool]:
        """The tensors, on the CPU, and whether they and the header are what was written.

        They are read into memory of their own, one after the other: what is mapped from a file
        changes with it, after its hash was compared, and copied from there takes the memory twice.

        Raises:
            ValueError: the file has become shorter.
        """
        digest, tensors = Digest(dict(self.header)), {}
        with open(self._path, "rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            for name, dtype in self._stored.items():
                stored = numbers(file, self.shapes[name], dtype)
                digest.add(name, stored)
                tensors[name] = stored.to(self.dtypes[name])
        return tensors, digest.hex() == self.hash


@contextmanager
def opened(
    path: Path, kind: str, form: int, by: str, oldest: int | None = None
) -> Iterator[TensorFile]:
    """Open a file of `write`; a ValueError in the block is given the file's name.

    Args:
        kind: what it must be.
        form: the newest format that is known, the field ``format`` of the header.
        by: what writes such files, for errors.
        oldest: the oldest format that is known; by default, no other one is.

    Raises:
        ValueError: it is another or a damaged file.
        FileNotFoundError: it is not there.
    """
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield _opened(path, file, kind, (form if oldest is None else oldest, form), by)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_file(path: Path) -> None:
    """Raise ValueError for a folder and for a pickle, FileNotFoundError if there is nothing."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")
    with open(path, "rb") as file:
        start = file.read(9)
    # The first 8 bytes of safetensors are a length of any value; the ninth begins the header.
    if start.startswith(PICKLES) and start[8:] != b"{":
        raise ValueError(
            f"{path} is a pickle, as torch.save writes it, or a program of torch.export, which can "
            "hold one: reading one can run any code, so it is never opened here. Have whoever made "
            "it save it as safetensors"
        )


def _opened(path: Path, file: Any, kind: str, known: tuple[int, int], by: str) -> TensorFile:
    metadata = file.metadata() or {}
    if "lowrank" not in metadata:
        raise ValueError(f"it holds no {kind} saved by {by}")
    header = Fields(parse(metadata["lowrank"], "the header"), "the header")
    if header.get("kind") != kind:
        raise ValueError(f"it holds no {kind} saved by {by}, but {shown(header.get('kind'))}")
    check_format(header.get("format"), *known)
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    codes = {name: part.get_dtype() for name, part in slices.items()}
    unknown = sorted(name for name, code in codes.items() if code not in NAMES)
    if unknown:
        raise ValueError(f"it holds tensors of a dtype that is not known: {shown(unknown)}")
    dtypes = {name: NAMES[code] for name, code in codes.items()}
    dtypes |= _wider(header.fields("dtypes"), dtypes)
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    stored = {name: NAMES[codes[name]] for name in file.offset_keys()}
    return TensorFile(header, shapes, dtypes, path, stored, metadata.get("hash", ""))


def check_format(form: Any, oldest: int, newest: int) -> None:
    """Raise ValueError unless a format is one of those that are known."""
    if isinstance(form, int) and not isinstance(form, bool) and oldest <= form <= newest:
        return
    known = f"{oldest} to {newest}" if oldest < newest else newest
    is_newer = isinstance(form, int) and form > newest
    advice = "a newer lowrank wrote it, so install that" if is_newer else "save it anew"
    raise ValueError(f"it has format {shown(form)}, this version reads {known}: {advice}")


def numbers(file: BinaryIO, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The next numbers of a file, in memory of their own; raises ValueError if it ends before."""
    found = torch.empty(shape, dtype=dtype, device="cpu")
    if file.readinto(bytes_of(found)) != found.nbytes:  # type: ignore[attr-defined]
        raise ValueError("it is damaged: it has become shorter")
    return found


def _wider(wanted: Fields, stored: Mapping[str, torch.dtype]) -> dict[str, torch.dtype]:
    """The dtypes that tensors had which are stored in fewer bits."""
    found: dict[str, torch.dtype] = {}
    wanted.only(*WIDER)
    for word, dtype in WIDER.items():
        for name in wanted.texts(word) if word in wanted else ():
            known = stored.get(name)
            if known is None or not known.is_floating_point or known.itemsize >= dtype.itemsize:
                wanted.refuse(word, name, f"a tensor that is stored in fewer bits than {word}")
            found[name] = dtype
    return found


def content_hash(path: Path) -> str:
    """The hash of what a file of `write` holds, as it says itself: 32 hexadecimal digits."""
    with safe_open(path, framework="pt") as file:
        return file.metadata()["hash"]
