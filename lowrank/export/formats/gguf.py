"""GGUF: the file of llama.cpp, with its metadata and tokenizer inside."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from lowrank.export.config_sizes import check_config
from lowrank.export.formats.format import Format
from lowrank.export.formats.gguf_tensors import KINDS, HeldTensor, held_floats, held_form
from lowrank.export.formats.gguf_tokenizer import GgufTokenizer, gguf_tokenizer
from lowrank.export.formats.hf.processor import WITHOUT
from lowrank.export.formats.plan import ExportPlan, PlannedLayer
from lowrank.export.skeleton import layers_of
from lowrank.model.contents import names_of
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.shared_memory import identity
from lowrank.numerics.checks import check_one_of
from lowrank.numerics.storage import dtype_name
from lowrank.reading.gguf_architectures import GgufArchitecture, architecture_of
from lowrank.tasks.splits import check_text

FILE = "model.gguf"


@dataclass(frozen=True)
class Gguf(Format):
    """``model.gguf``, of the Llama and Qwen2 language models of transformers.

    A quantized layer whose codes fit the blocks of 32 weights of Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0
    keeps them, in the smallest that holds them exactly: the width of its rows and its groups are
    multiples of 32, and its scales are numbers of float16. ``Quantization(bits=4, group_size=32)``
    makes those of Q4_0, 5 bits and 8 bits those of Q5_0 and Q8_0, and ``symmetric=False`` with 4
    bits those of Q5_0. Blocks with minima that were read of another file, and a layer in half
    precision, stay so too. All others are multiplied out.

    Args:
        tokenizer: the name or folder of the one to include, or a GGUF file that has it; empty: that
            of the model's own folder; None: none is included, and the file serves for its weights
            alone.
        dtype: of the matrices that are not in blocks: ``"float16"``, ``"bfloat16"`` or
            ``"float32"``. Vectors are float32, as llama.cpp needs them.

    Raises:
        ValueError: another dtype; when it is used, a model of another architecture or with settings
            that llama.cpp does not know, a tensor that has no name in GGUF, no tokenizer, or a
            number that the dtype does not hold.
    """

    name: ClassVar[str] = "gguf"
    libraries: ClassVar[tuple[str, ...]] = ("gguf", "transformers")

    tokenizer: str | Path | None = ""
    dtype: str = "float16"

    def __post_init__(self) -> None:
        check_one_of("dtype", self.dtype, KINDS)
        if self.tokenizer and not isinstance(self.tokenizer, Path):
            check_text("tokenizer", self.tokenizer)

    def plan(self, model: nn.Module) -> ExportPlan:
        architecture = architecture_of(model)
        stored = self._tensors(model, architecture)
        notes = self._notes(model, stored)
        check_config(model)
        layers = []
        for layer in layers_of(model):
            copies = [stored.pop(name) for name in layer.modules if name in stored]
            held, nbytes = copies[0].held, sum(copy.held.nbytes for copy in copies)
            form = layer.factorization.describe()
            layers.append(PlannedLayer(layer.modules[0], form, held.kind, nbytes, held.why_dense))
        rest = sum(one.held.nbytes for one in stored.values())
        return ExportPlan(self.name, tuple(layers), rest, notes)

    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        import gguf

        architecture, tokenizer = architecture_of(model), self._vocabulary(model)
        stored = self._tensors(model, architecture).values()
        writer = gguf.GGUFWriter(folder / FILE, architecture.model_type)
        writer.add_name(architecture.model_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        config: Any = model.config
        for key, value in architecture.keys(config).items():
            add: Any = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(key, value)
        if tokenizer is None:
            writer.add_tokenizer_model("none")
        else:
            tokenizer.add_to(writer)
        for one in stored:
            kind = gguf.GGMLQuantizationType[one.held.kind]
            # With a kind, its own dtype is not looked at.
            writer.add_tensor_info(one.name, one.shape, np.dtype("f4"), one.held.nbytes, kind)
        with closing(writer):
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for one in stored:  # One after the other, so that no two are in memory at once.
                writer.write_tensor_data(one.to_bytes(architecture, config))

    def _tensors(self, model: nn.Module, architecture: GgufArchitecture) -> dict[str, _Stored]:
        """What is stored, by the name of the layer, or of the tensor outside of layers."""
        names = _Names(architecture, model)
        found: dict[str, _Stored] = {}
        inside: set[int] = set()
        for name, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, FactorizedLayer):
                form = module.factorization
                inside |= {id(tensor) for tensor in form.state_dict(keep_vars=True).values()}
                held = held_form(form, KINDS[self.dtype])
                found[name] = _Stored(names.of(f"{name}.weight"), form.shape, held, id(form))
        for name, tensor in model.state_dict(keep_vars=True).items():
            if id(tensor) not in inside:
                kind = KINDS[self.dtype] if tensor.ndim > 1 else "F32"
                shape = tuple(tensor.shape)
                held = held_floats(shape, tensor.dtype, kind, lambda tensor=tensor: tensor)
                found[name] = _Stored(names.of(name), shape, held, identity(tensor))
        names.check()
        by_name = {one.name: name for name, one in found.items()}
        head, table = by_name.get("output.weight"), by_name["token_embd.weight"]
        if head is not None and found[head].memory == found[table].memory:
            del found[head]  # Without a head, readers take the table.
        return found

    def _vocabulary(self, model: nn.Module) -> GgufTokenizer | None:
        if self.tokenizer is None:
            return None
        config: Any = model.config
        rows = config.vocab_size
        from lowrank.reading.gguf_vocabulary import tokenizer_in
        from lowrank.tasks.pretrained import Pretrained
        from lowrank.tasks.read_compressed import GGUF, gguf_file

        name = str(self.tokenizer) or str(getattr(model, "name_or_path", ""))
        if not name:
            raise ValueError(
                f"this {type(model).__name__} does not say where its tokenizer is. {WITHOUT}"
            )
        try:
            if name.endswith(GGUF):
                found = tokenizer_in(gguf_file(name))
            else:
                found = Pretrained(name, "float32", None).tokenizer
        except ValueError as error:
            raise ValueError(f"{error}. {WITHOUT}") from error
        return gguf_tokenizer(found, rows)

    def _notes(self, model: nn.Module, stored: Mapping[str, _Stored]) -> tuple[str, ...]:
        notes = []
        if self._vocabulary(model) is None:
            notes.append("it has no tokenizer, and llama.cpp takes no text then")
        rounded: dict[str, list[str]] = {}
        for name, one in stored.items():
            if one.held.dtype is not None:
                rounded.setdefault(dtype_name(one.held.dtype), []).append(name)
        for dtype, names in rounded.items():
            notes.append(f"{names_of(names)} of {dtype} are rounded to {self.dtype}")
        return tuple(notes)


@dataclass(frozen=True)
class _Stored:
    """A tensor of the file: its name there, and what is stored of it.

    Attributes:
        memory: equal for those that are one tensor in the model.
    """

    name: str
    shape: tuple[int, ...]
    held: HeldTensor
    memory: Hashable

    def to_bytes(self, architecture: GgufArchitecture, config: Any) -> np.ndarray:
        """Its bytes, rows in the order of the file."""
        try:
            rows = self.held.to_bytes()
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        order = architecture.order(self.name, self.shape[0], config)
        return rows if order is None else rows[order.numpy()]


class _Names:
    """The names in GGUF of the tensors of a model."""

    def __init__(self, architecture: GgufArchitecture, model: nn.Module) -> None:
        import gguf

        by_type = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
        config: Any = model.config
        arch = by_type[architecture.model_type]
        self._map = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
        self._model = type(model).__name__
        self._unknown: list[str] = []

    def of(self, name: str) -> str:
        """The name there; unknown ones are kept for `check`."""
        stem, _, last = name.rpartition(".")
        found = self._map.get_name(stem) if last in ("weight", "bias") else None
        if found is None:
            self._unknown.append(name)
        return f"{found}.{last}"

    def check(self) -> None:
        """Raise ValueError if tensors have no name."""
        if self._unknown:
            raise ValueError(
                f"GGUF has no place for {names_of(self._unknown)} of this {self._model}"
            )
