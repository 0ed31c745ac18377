"""GGUF files, as llama.cpp writes them, and this library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowrank.factorizations import Dense, Factorization, Half, Layout, Quantized, ScaledLevels
from lowrank.files.extras import need
from lowrank.model.contents import names_of
from lowrank.reading.gguf_architectures import GgufArchitecture, name_in_model
from lowrank.reading.gguf_blocks import BLOCK, BLOCK_TYPES, GgufBlocks
from lowrank.reading.gguf_config import architecture_in, config_in
from lowrank.reading.gguf_header import GgufHeader, GgufTensor, read_header
from lowrank.reading.scheme import LayerReader
from lowrank.reading.stored import LayerTensors, StoredTensor

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCKS = {kind.name: kind for kind in BLOCK_TYPES}


@dataclass(frozen=True)
class GgufReader(LayerReader):
    """Layers of a GGUF file, row by row.

    Q4_0, Q5_0 and Q8_0 are integers around 0, with a scale for each 32. Q4_1 and Q5_1 have a
    minimum too: they are `Quantized` where zero points of that many bits or of float16 say exactly
    the same, else `ScaledLevels`. Numbers of 16 bits stay so where the model has another dtype.

    Args:
        header: of the file.
        tensors: by the names of their layers.
    """

    header: GgufHeader
    tensors: Mapping[str, GgufTensor]

    def read(
        self, parts: LayerTensors, shape: tuple[int, int], dtype: torch.dtype
    ) -> Factorization:
        tensor = self.tensors[parts.layer]
        if tensor.shape != shape:
            raise ValueError(f"'{tensor.name}' is {tensor.shape} in the file, {shape} in the model")
        rows = parts["weight"].read((shape[0], tensor.nbytes // shape[0]), torch.uint8)
        if tensor.kind in FLOATS:
            return Half(rows.view(FLOATS[tensor.kind]), dtype)
        if tensor.kind in BLOCKS:
            return in_groups(GgufBlocks.from_bytes(BLOCKS[tensor.kind], rows), dtype)
        import gguf

        values = gguf.dequantize(rows.numpy(), gguf.GGMLQuantizationType[tensor.kind])
        note = f"multiplied out of {tensor.kind}"
        return Dense(torch.from_numpy(values).to(dtype), (note,))

    def __str__(self) -> str:
        counts: dict[str, int] = {}
        for tensor in self.header.tensors.values():
            counts[tensor.kind] = counts.get(tensor.kind, 0) + 1
        return "gguf, " + ", ".join(f"{count} of {kind}" for kind, count in counts.items())


def in_groups(blocks: GgufBlocks, dtype: torch.dtype) -> Factorization:
    """The matrix of blocks, with the same bytes and levels."""
    kind, shape = blocks.type, (blocks.codes.shape[0], blocks.codes.shape[1])
    layout = Layout(shape, kind.bits, BLOCK)
    scale, *minimum = (one.flatten() for one in blocks.numbers)
    if not minimum:
        return Quantized(layout, blocks.codes, scale, None, dtype)
    exact = ScaledLevels(layout, blocks.codes, scale, None, minimum[0])
    zero = -minimum[0].float() / scale.float().where(scale != 0, torch.inf)
    for stored in (zero.to(torch.uint8), zero.to(torch.float16)):
        is_code = stored.is_floating_point() or bool((stored < 2**kind.bits).all())
        if is_code and torch.equal(stored.float(), zero):
            form = Quantized(layout, blocks.codes, scale, stored)
            if torch.equal(form.to_dense(), exact.to_dense()):
                return form.to(dtype)
    return exact.to(dtype)


@dataclass(frozen=True)
class OpenGguf:
    """A GGUF file whose header was read and fits what is read of such files.

    Attributes:
        config: of the model, of transformers.
        model: the name of its class there.
    """

    path: Path
    header: GgufHeader
    architecture: GgufArchitecture
    config: Any

    @property
    def model(self) -> str:
        return self.architecture.model

    def stored(self, dtype: torch.dtype) -> tuple[dict[str, StoredTensor], GgufReader]:
        """Its tensors by their names in the model, and what reads those of compressed layers.

        Args:
            dtype: of the model.
        """
        found, layers, unknown = {}, {}, []
        for tensor in self.header.tensors.values():
            name = name_in_model(tensor.name)
            if name is None:
                unknown.append(tensor.name)
                continue
            own = FLOATS.get(tensor.kind)
            if own is not None and (len(tensor.shape) == 1 or own in (torch.float32, dtype)):
                found[name] = StoredTensor(tensor.name, tensor.shape, own, self)
            elif len(tensor.shape) != 2:
                raise ValueError(f"'{tensor.name}' is {tensor.shape} of {tensor.kind}")
            else:
                layers[name.rpartition(".")[0]] = tensor
                rows = tensor.shape[0]
                shape = (rows, tensor.nbytes // max(rows, 1))
                found[name] = StoredTensor(tensor.name, shape, torch.uint8, self)
        if unknown:
            raise ValueError(f"{self.path} has {names_of(unknown)}, which no {self.model} has")
        return found, GgufReader(self.header, layers)

    def get_tensor(self, name: str) -> Tensor:
        """A tensor by its name in the file, its rows in the order of the model.

        Those of float types as such, of shape as in the model, and others as bytes.
        """
        tensor = self.header.tensors[name]
        size = (tensor.nbytes,)
        data = np.memmap(self.path, np.uint8, "r", tensor.start, size)
        rows = np.array(data).reshape(tensor.shape[0], -1)
        order = self.architecture.order(name, tensor.shape[0], self.config)
        found = torch.from_numpy(rows if order is None else rows[order.argsort().numpy()])
        own = FLOATS.get(tensor.kind)
        return found if own is None else found.view(own).view(tensor.shape)


def open_gguf(path: Path, multiply_out: bool = False) -> OpenGguf:
    """A GGUF file, of which only the header is read.

    Args:
        multiply_out: whether layers of other types than those of `BLOCKS` may become dense.

    Raises:
        ValueError: a file, architecture or setting that is not read, or other types of tensors.
    """
    need("a GGUF file", "gguf", "transformers")
    header = read_header(path)
    others: dict[str, list[str]] = {}
    for tensor in header.tensors.values():
        if tensor.kind not in FLOATS and tensor.kind not in BLOCKS:
            others.setdefault(tensor.kind, []).append(tensor.name)
    if others and not multiply_out:
        said = ", ".join(f"{kind} ({names_of(names)})" for kind, names in others.items())
        raise ValueError(
            f"{path} has tensors of {said}; read are {[*FLOATS, *BLOCKS]}. With multiply_out=True "
            "the others become dense"
        )
    try:
        return OpenGguf(path, header, architecture_in(header), config_in(header))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
