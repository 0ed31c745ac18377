"""Compressed layers in the form of compressed-tensors, or of 16 bits a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.export.formats.dense import planned_dense
from lowrank.export.formats.hf.compressed_tensors import (
    PackingScheme,
    packed_tensors,
    quantization_config,
    rounding_note,
    schemes_of,
    why_not,
)
from lowrank.export.formats.hf.places import is_fused, weight_name
from lowrank.export.formats.plan import ExportPlan, PlannedLayer
from lowrank.export.skeleton import Layer, layers_of
from lowrank.factorizations import Dense, Half, Quantized
from lowrank.model.factorized.linear import FactorizedLinear
from lowrank.numerics.storage import dtype_name


def planned_packed(model: nn.Module, dequantize: bool) -> tuple[PlannedLayer, ...]:
    """What becomes of the layers of a model.

    Args:
        dequantize: whether readers multiply out as they load.

    Raises:
        ValueError: they do, and layers are packed in several ways.
    """
    schemes = _schemes(model, dequantize)
    return tuple(_planned(model, layer, schemes) for layer in layers_of(model))


def pack_layers(
    model: nn.Module,
    plan: ExportPlan,
    dense: nn.Module,
    state: dict[str, Tensor],
    dequantize: bool,
) -> dict[str, Any]:
    """Exchange dense weights in a state dict for packed codes and values of 16 bits.

    Args:
        dense: the model multiplied out, whose state it is.
        dequantize: as in the plan.

    Returns:
        Entries of the config.
    """
    schemes = _schemes(model, dequantize)
    narrowed: dict[int, Tensor] = {}  # Tied ones stay tied.
    for layer, planned in zip(layers_of(model), plan.layers, strict=True):
        form, name = layer.factorization, layer.modules[0]
        if isinstance(form, Quantized) and name in schemes:
            del state[f"{name}.weight"]
            packed = packed_tensors(form, schemes[name])
            state |= {f"{name}.{end}": tensor for end, tensor in packed.items()}
        elif isinstance(form, Half) and not planned.why_dense:
            for name in layer.modules:
                key = f"{name}.{weight_name(model, name)}"
                full = state[key]
                state[key] = narrowed.setdefault(full.data_ptr(), full.to(form.stored_dtype))
    if not schemes:
        return {}
    modules = dict(dense.named_modules())
    others = [n for n, m in modules.items() if isinstance(m, nn.Linear) and n not in schemes]
    return {"quantization_config": quantization_config(schemes, others, modules)}


def _planned(model: nn.Module, layer: Layer, schemes: Mapping[str, PackingScheme]) -> PlannedLayer:
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
    if is_fused(model, layer.modules[0]):
        return planned_dense(layer, "it is a part of a fused tensor")
    # Rounded to W's dtype and widened again, the values must be what they were.
    if torch.promote_types(form.stored_dtype, form.dtype) != form.dtype:
        why = f"{dtype_name(form.dtype)} does not hold {dtype_name(form.stored_dtype)}"
        return planned_dense(layer, why)
    stored = f"dense {dtype_name(form.stored_dtype)}"
    return replace(planned_dense(layer, ""), stored=stored, nbytes=form.stored.nbytes)


def _schemes(model: nn.Module, dequantize: bool) -> dict[str, PackingScheme]:
    """How the layers are packed that can be, by name."""
    forms = {
        layer.modules[0]: layer.factorization
        for layer in layers_of(model)
        if isinstance(layer.factorization, Quantized)
        and not _why_not_packed(model, layer, layer.factorization)
    }
    return schemes_of(forms, dequantize)


def _why_not_packed(model: nn.Module, layer: Layer, form: Quantized) -> str:
    """Why a layer of codes is not packed; empty if it is."""
    if len(layer.modules) > 1:
        return "modules share it, and compressed-tensors ties none"
    name = layer.modules[0]
    if is_fused(model, name):
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
