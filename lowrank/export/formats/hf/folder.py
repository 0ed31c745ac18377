"""The folder of a model of `transformers`, quantized layers in the form of compressed-tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank.export.formats.dense import planned_dense
from lowrank.export.formats.format import Format
from lowrank.export.formats.hf.card import CARD, card, licence_of, read_record
from lowrank.export.formats.hf.compressed_tensors import (
    Scheme,
    packed_tensors,
    quantization_config,
    rounding_note,
    schemes_of,
    why_not,
)
from lowrank.export.formats.hf.processor import processor_of
from lowrank.export.formats.plan import ExportPlan, PlannedLayer
from lowrank.export.formats.rest import rest_bytes
from lowrank.export.skeleton import Layer, layers_of
from lowrank.factorizations import Dense, Half
from lowrank.factorizations.quantized import Quantized
from lowrank.model.dense import dense_model
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.factorized.linear import FactorizedLinear
from lowrank.model.host import Host
from lowrank.numerics.checks import check_integer
from lowrank.numerics.storage import dtype_name

CONFIG = "config.json"
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class HuggingFaceFolder(Format):
    """A folder that ``from_pretrained`` of `transformers` loads: config, generation config,
    tokenizer, weights in shards, and a model card.

    Linear layers of codes keep them, in the format ``pack-quantized`` of compressed-tensors, which
    the reader needs then. 16-bit values stay so. All else is written as dense matrices.

    Args:
        tokenizer: a folder or a name on the hub with the tokenizer or processor; by default that
            of the model itself; None leaves it out.
        shard_bytes: the largest size of a file of weights; several have an index.
        record: the file of a record, for the model card.
        licence: of the base, as the hub names it; by default that of the base's own card.

    Raises:
        ValueError: another type or value.
    """

    name: ClassVar[str] = "hf"
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)

    tokenizer: str | Path | None = ""
    shard_bytes: int = SHARD_BYTES
    record: str | Path | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        check_integer("shard_bytes", self.shard_bytes, least=1)
        if self.tokenizer is not None and not isinstance(self.tokenizer, str | Path):
            raise ValueError(f"tokenizer={self.tokenizer!r} must be a path, a name, or None")
        if not isinstance(self.licence, str):
            raise ValueError(f"licence={self.licence!r} must be a text, such as 'apache-2.0'")

    def plan(self, model: nn.Module) -> ExportPlan:
        check_pretrained(model)
        if self.record is not None:
            read_record(self.record)
        notes = [] if self._licence(model) else ["the licence of the base is not known"]
        if self.tokenizer is None:
            notes.append("no tokenizer: tokenizer=None leaves it out")
        else:
            processor_of(model, self.tokenizer)
        schemes = _schemes(model)
        layers = tuple(_planned(model, layer, schemes) for layer in layers_of(model))
        return ExportPlan(self.name, layers, rest_bytes(model), tuple(notes))

    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        tensors: dict[str, Tensor] = {}
        schemes = _schemes(model)
        halves: dict[str, torch.dtype] = {}  # By the name of the weight.
        for layer, planned in zip(layers_of(model), plan.layers, strict=True):
            form, name = layer.factorization, layer.modules[0]
            if isinstance(form, Quantized) and name in schemes:
                packed = packed_tensors(form, schemes[name])
                tensors |= {f"{name}.{end}": tensor for end, tensor in packed.items()}
            elif isinstance(form, Half) and not planned.why_dense:
                for name in layer.modules:
                    halves[f"{name}.{_weight_name(model, name)}"] = form.stored_dtype
        dense: Any = dense_model(model)
        state = dense.state_dict()
        for name in schemes:
            del state[f"{name}.weight"]
        narrowed: dict[int, Tensor] = {}  # Tied ones stay tied.
        for name, dtype in halves.items():
            full = state[name]
            state[name] = narrowed.setdefault(full.data_ptr(), full.to(dtype))
        write_pretrained(dense, state | tensors, folder, self.shard_bytes)
        if schemes:
            linear = [n for n, m in dense.named_modules() if isinstance(m, nn.Linear)]
            names = [n for n, _ in dense.named_modules()]
            others = [name for name in linear if name not in schemes]
            add_to_config(
                folder, {"quantization_config": quantization_config(schemes, others, names)}
            )
        if self.tokenizer is not None:
            processor_of(model, self.tokenizer).save_pretrained(folder)
        record = None if self.record is None else read_record(self.record)
        (folder / CARD).write_text(card(model, plan, self._licence(model), record), "utf-8")

    def _licence(self, model: nn.Module) -> str:
        return self.licence or licence_of(model)


def check_pretrained(model: nn.Module) -> None:
    """Raise ValueError unless it is a model of `transformers`."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"a folder of transformers holds its models, and {type(model).__name__} is none: "
            "choose format='dense'"
        )


def write_pretrained(dense: Any, state: dict[str, Tensor], folder: Path, shard_bytes: int) -> None:
    """Write tensors, config and generation config as the library of the model does.

    Args:
        dense: the model of the classes of the library; its config is not changed.
    """
    own = dense.config
    dense.config = type(own).from_dict(own.to_dict())
    try:
        dense.save_pretrained(folder, state_dict=state, max_shard_size=shard_bytes)
    finally:
        dense.config = own


def add_to_config(folder: Path, entries: dict[str, Any]) -> None:
    """Add entries to the config in a folder."""
    path = folder / CONFIG
    config = json.loads(path.read_text("utf-8")) | entries
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _planned(model: nn.Module, layer: Layer, schemes: Mapping[str, Scheme]) -> PlannedLayer:
    form, name = layer.factorization, layer.modules[0]
    if isinstance(form, Dense):
        return planned_dense(layer, "")
    if isinstance(form, Half):
        return _planned_half(model, layer, form)
    if not isinstance(form, Quantized):
        return planned_dense(layer, "compressed-tensors holds codes and their scales alone")
    if name not in schemes:
        alike = "transformers reads zero points of 8 bits only if all layers are packed alike"
        return planned_dense(layer, _why_not_packed(model, layer, form) or alike)
    scheme = schemes[name]
    stored = scheme.describe(form.layout.bits) + rounding_note(form, scheme)
    return PlannedLayer(name, form.describe(), stored, scheme.nbytes(form))


def _planned_half(model: nn.Module, layer: Layer, form: Half) -> PlannedLayer:
    if _is_fused(model, layer.modules[0]):
        return planned_dense(layer, "it is a part of a fused tensor")
    # Rounded to W's dtype and widened again, the values must be what they were.
    if torch.promote_types(form.stored_dtype, form.dtype) != form.dtype:
        why = f"{dtype_name(form.dtype)} does not hold {dtype_name(form.stored_dtype)}"
        return planned_dense(layer, why)
    stored = f"dense {dtype_name(form.stored_dtype)}"
    return replace(planned_dense(layer, ""), stored=stored, nbytes=form.stored.nbytes)


def _schemes(model: nn.Module) -> dict[str, Scheme]:
    """How the layers are packed that can be, by name."""
    forms = {
        layer.modules[0]: layer.factorization
        for layer in layers_of(model)
        if isinstance(layer.factorization, Quantized)
        and not _why_not_packed(model, layer, layer.factorization)
    }
    return schemes_of(forms)


def _why_not_packed(model: nn.Module, layer: Layer, form: Quantized) -> str:
    """Why a layer of codes is not packed; empty if it is."""
    if len(layer.modules) > 1:
        return "modules share it, and compressed-tensors ties none"
    name = layer.modules[0]
    if _is_fused(model, name):
        return "it is a part of a fused tensor"
    if type(model.get_submodule(name)) is not FactorizedLinear:
        return "transformers loads packed codes into linear layers only"
    if _is_merged(model):
        return "transformers merges weights of this model, and then expects all of them packed"
    return why_not(form)


def _is_merged(model: nn.Module) -> bool:
    """Whether the library makes weights of this model out of several in a file."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    rules = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    return any(isinstance(rule, WeightConverter) for rule in rules)


def _is_fused(model: nn.Module, name: str) -> bool:
    """Whether a layer stands for a part of what the module around it reads."""
    paths = [name.rpartition(".")[0]]
    while paths[-1]:
        paths.append(paths[-1].rpartition(".")[0])
    return any(isinstance(model.get_submodule(path), Host) for path in paths)


def _weight_name(model: nn.Module, name: str) -> str:
    layer = model.get_submodule(name)
    assert isinstance(layer, FactorizedLayer)
    return layer.weight_name
