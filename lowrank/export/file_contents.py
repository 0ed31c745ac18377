"""The contents of a safetensors file, told from its header without reading its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lowrank.export.architecture import Architecture
from lowrank.export.checkpoint import opened_model
from lowrank.export.old_formats import layers_in
from lowrank.export.skeleton import Layer
from lowrank.files.fields import parse
from lowrank.files.paths import as_path
from lowrank.files.tensor_files import NAMES, TensorFile, check_file
from lowrank.numerics.storage import dtype_name

# Characters of the metadata of others that are shown.
LONGEST = 200


@dataclass(frozen=True)
class Held:
    """A weight or another tensor in a file.

    Attributes:
        name: of the layer; of layers that share it, all, with ``=`` between them.
        form: such as ``Quantized 64→64, 4 bits, group 64``; the dtype of a plain tensor.
        shape: of the matrix that a form stands for.
        nbytes: in the file.
    """

    name: str
    form: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each number; NaN where there are none."""
        count = math.prod(self.shape)
        return 8 * self.nbytes / count if count else float("nan")


@dataclass(frozen=True)
class FileContents:
    """What a file holds.

    Attributes:
        kind: ``model`` for a file of `lowrank.save`, ``tensors`` for one of others.
        facts: in words, such as format, class and hash.
        layers: the factorizations, in the order of the model.
        tensors: all else.
    """

    kind: str
    facts: tuple[str, ...]
    layers: tuple[Held, ...]
    tensors: tuple[Held, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers, without the header."""
        return sum(one.nbytes for one in (*self.layers, *self.tensors))

    def describe(self) -> str:
        """A table for people."""
        rows = [
            (
                _plain(one.name),
                one.form,
                "×".join(map(str, one.shape)) or "1",
                f"{one.nbytes:,}",
                f"{one.bits_per_weight:.2f}",
            )
            for one in (*self.layers, *self.tensors)
        ]
        head = ("name", "holds", "shape", "bytes", "bits/weight")
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            "  ".join(
                word.ljust(width) if i < 3 else word.rjust(width)
                for i, (word, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *rows)
        ]
        layers = sum(one.nbytes for one in self.layers)
        total = f"{self.nbytes:,} bytes"
        if self.layers:
            total += f": {layers:,} in {len(self.layers)} compressed weights"
            total += f", {self.nbytes - layers:,} in {len(self.tensors)} other tensors"
        else:
            total += f" in {len(self.tensors)} tensors"
        return "\n".join([*map(_plain, self.facts), *lines, total])


def file_contents(path: str | Path) -> FileContents:
    """What a safetensors file holds; of one of `lowrank.save`, or a folder of
    `lowrank.compress_checkpoint`, layer by layer.

    Raises:
        ValueError: it is no such file, or damaged, or of a newer version.
        FileNotFoundError: it is not there.
    """
    source = as_path(path)
    if source.is_dir():
        with opened_model(source) as folder:
            return _of_model(folder)
    check_file(source)
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            stored = {name: (p.get_dtype(), tuple(p.get_shape())) for name, p in slices.items()}
    except SafetensorError as error:
        raise ValueError(f"{source} is no whole safetensors file: {error}") from error
    kind = _kind(metadata.get("lowrank"))
    if kind == "model":
        with opened_model(source) as opened_file:
            return _of_model(opened_file)
    tensors = tuple(
        Held(n, code, shape, _nbytes(code, shape)) for n, (code, shape) in stored.items()
    )
    what = "tensors of no model of lowrank" if kind is None else f"{kind} of lowrank"
    facts = [f"safetensors: {what}"]
    facts += [
        f"{k}: {v[:200]}" for k, v in sorted(metadata.items()) if k not in ("lowrank", "hash")
    ]
    return FileContents(kind or "tensors", tuple(facts), (), tensors)


def _of_model(file: TensorFile) -> FileContents:
    count = 8 * (len(file.shapes) + 1)
    layers, inside = [], set()
    sizes = file.stored_bytes()
    for fields in layers_in(file.header):
        layer = Layer.of(fields, count)
        own = {n for n in sizes if n.startswith(f"{layer.modules[0]}.factorization.")}
        inside |= own
        name = " = ".join(layer.modules)
        nbytes = sum(sizes[tensor] for tensor in own)
        layers.append(Held(name, layer.factorization.describe(), layer.factorization.shape, nbytes))
    rest = tuple(
        Held(name, dtype_name(file.dtypes[name]), file.shapes[name], size)
        for name, size in sizes.items()
        if name not in inside
    )
    facts = [f"model saved by lowrank, format {file.header['format']}", f"hash {file.hash}"]
    if file.header.get("architecture") is None:
        facts.append("of a class that the file does not name: load(path, model)")
    else:
        known = Architecture.of(file.header.fields("architecture"))
        facts.append(f"{known.name} of transformers: load(path)")
    return FileContents("model", tuple(facts), tuple(layers), rest)


def _kind(text: str | None) -> str | None:
    """The kind of a file of this library."""
    if text is None:
        return None
    header = parse(text, "the header")
    kind = header.get("kind") if isinstance(header, dict) else None
    return kind if isinstance(kind, str) else None


def _nbytes(code: str, shape: tuple[int, ...]) -> int:
    bits = 8 * NAMES[code].itemsize if code in NAMES else _digits(code)
    return -(-math.prod(shape) * bits // 8)


def _digits(code: str) -> int:
    """Bits of a dtype of safetensors by its name, such as F8_E8M0 or F4."""
    digits = "".join(sign if sign.isdigit() else " " for sign in code.split("_")[0]).split()
    return int(digits[0]) if digits else 8


def _plain(text: str) -> str:
    """A text of a file that others may have made, without what a terminal would act on."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
