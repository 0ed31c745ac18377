"""Layers as bitsandbytes stores them, by transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from lowrank.factorizations import Factorization, Layout, Quantized, ScaledLevels
from lowrank.files.fields import Fields, parse
from lowrank.numerics.checks import check_one_of
from lowrank.reading.scheme import Scheme
from lowrank.reading.stored import LayerTensors

TABLES = ("nf4", "fp4")
STATE = "weight.quant_state.bitsandbytes__"
# The longest description of a layer; they take some 200 bytes.
LONGEST = 2**12
# W = code · SCB / 127, as bitsandbytes computes it.
LEVEL = 7.874015718698502e-3
NOTE = "LLM.int8 rounds activations to 8 bits too, which is not done here"


@dataclass(frozen=True)
class BitsAndBytes(Scheme):
    """W = table[code] · scale, of the 16 levels of NF4 or FP4 and a scale for each block of 32 or
    more weights of a row, or W = code · SCB / 127 with a scale for each row (LLM.int8).

    With double quantization scales have codes of 8 bits too. The table is that of the file. The
    integer weights of LLM.int8 are read, while its activations are not rounded, nor divided into
    outliers and others: layers say so in a note.

    Args:
        table: its name, ``nf4`` or ``fp4``; "" for LLM.int8.

    Source: Dettmers et al., QLoRA, NeurIPS 2023, and LLM.int8(), NeurIPS 2022; ``functional.py`` of
    bitsandbytes, ``QuantState``, `dequantize_4bit` and `int8_vectorwise_dequant`.
    """

    method: ClassVar[str] = "bitsandbytes"

    table: str

    @classmethod
    def of(cls, config: Fields) -> Self:
        in_4, in_8 = (config.get(f"load_in_{bits}bit", False) is True for bits in (4, 8))
        if in_4 == in_8:
            config.refuse("load_in_4bit", in_4, "true, or load_in_8bit is, and not both")
        if in_8:
            return cls("")
        if config.get("bnb_4bit_quant_storage", "uint8") != "uint8":
            config.refuse("bnb_4bit_quant_storage", config["bnb_4bit_quant_storage"], "'uint8'")
        return cls(config.one_of("bnb_4bit_quant_type", TABLES))

    def read(
        self, parts: LayerTensors, shape: tuple[int, int], dtype: torch.dtype
    ) -> Factorization:
        return self._of_table(parts, shape, dtype) if self.table else _integers(parts, shape, dtype)

    def _of_table(
        self, parts: LayerTensors, shape: tuple[int, int], dtype: torch.dtype
    ) -> Factorization:
        state = _state(parts, self.table)
        if state.integers("shape", 2, least=1) != shape:
            state.refuse("shape", state["shape"], f"{list(shape)}, as in the model")
        size = state.integer("blocksize", 32, 2**16)
        if shape[1] % size:
            raise ValueError(
                f"'{parts.layer}' has blocks of {size} that run on from row to row of {shape[1]}: "
                "read are those that divide rows"
            )
        layout, count = Layout(shape, 4, size), shape[0] * shape[1]
        packed = parts["weight"].read((count // 2, 1), torch.uint8).flatten()
        # The first of two codes has the upper half of a byte.
        codes = torch.stack([packed >> 4, packed & 15], dim=1).view(shape)
        levels = parts["weight.quant_map"].read((16,), torch.float32)
        return ScaledLevels(layout, codes, _scales(parts, state, layout), levels, None, dtype)

    def __str__(self) -> str:
        return f"bitsandbytes, {self.table or 'LLM.int8'}"


def _state(parts: LayerTensors, table: str) -> Fields:
    """The description of a layer, which is JSON in a tensor."""
    stored = parts[f"{STATE}{table}"]
    if len(stored.shape) != 1 or stored.shape[0] > LONGEST:
        raise ValueError(f"'{stored.name}' is {stored.shape}, and has at most {LONGEST} bytes")
    text = stored.read(stored.shape, torch.uint8).numpy().tobytes()
    state = Fields(parse(text, stored.name), stored.name)
    check_one_of("quant_type", state.text("quant_type"), (table,))
    return state


def _scales(parts: LayerTensors, state: Fields, layout: Layout) -> Tensor | ScaledLevels:
    """The scale of each block, or its codes."""
    count = layout.count
    if "weight.nested_absmax" not in parts:
        return parts["weight.absmax"].read((count,), torch.float32)
    inner = Layout((1, count), 8, state.integer("nested_blocksize", 1, 2**16))
    return ScaledLevels(
        inner,
        parts["weight.absmax"].read((count,), torch.uint8).view(1, count),
        parts["weight.nested_absmax"].read((inner.count,), torch.float32),
        parts["weight.nested_quant_map"].read((256,), torch.float32),
        torch.tensor([state.number("nested_offset")], dtype=torch.float32),
    )


def _integers(parts: LayerTensors, shape: tuple[int, int], dtype: torch.dtype) -> Factorization:
    layout_code = int(parts["weight_format"].read((), torch.uint8))
    if layout_code:
        raise ValueError(f"'{parts.layer}.weight_format' is {layout_code}, and 0 (rows) is read")
    codes = parts["weight"].read(shape, torch.int8).to(torch.int16) + 128
    scale = parts["SCB"].read((shape[0],), torch.float32) * LEVEL
    form = Quantized(Layout(shape, 8, "channel"), codes, scale, None, dtype)
    form.notes = (NOTE,)
    return form
