"""Compressed layers of all forms that methods make, in a folder that has the code to run them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.export.formats.dense import planned_dense
from lowrank.export.formats.hf import remote
from lowrank.export.formats.hf.places import is_fused, weight_name
from lowrank.export.formats.plan import ExportPlan, PlannedLayer
from lowrank.export.skeleton import Layer, layers_of
from lowrank.factorizations import BlockGrid, Codebook, Dense, Factorization, Sparse
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.factorized.linear import FactorizedLinear
from lowrank.numerics.storage import dtype_name

MODEL = "modeling_compressed.py"
FILES = (MODEL, "matrix_forms.py", "packed_codes.py")
CLASS = "CompressedModel"
ORIGINAL = 'ORIGINAL = "PreTrainedModel"'
# The forms that the code has.
HELD = frozenset(
    {
        *("Dense", "Half", "Quantized", "Codebook", "Sparse", "EntropyCoded", "Product", "Sum"),
        *("Scaled", "ScaledColumns", "BlockDiagonal", "PermutedProduct"),
    }
)


def planned_own(model: nn.Module) -> tuple[PlannedLayer, ...]:
    """What becomes of the layers of a model."""
    return tuple(_planned(model, layer) for layer in layers_of(model))


def write_own(
    model: nn.Module, plan: ExportPlan, state: dict[str, Tensor], folder: Path
) -> dict[str, Any]:
    """Exchange dense weights in a state dict for forms, and write the code that reads them.

    Returns:
        Entries of the config.

    Raises:
        ValueError: no ``Auto`` class of the library makes models of this class.
    """
    kept = []
    for layer in kept_layers(model, plan.layers):
        places = [_place(model, name) for name in layer.modules]
        for place in places:
            del state[f"{place['name']}.{place['weight']}"]
        kept.append({"form": described(layer.factorization), "modules": places})
        for name, tensor in stored_tensors_of(layer.factorization).items():
            state[f"{layer.modules[0]}.factorization.{name}"] = tensor
    original = type(model).__name__
    for name in FILES:
        text = resources.files(remote).joinpath(name).read_text("utf-8")
        (folder / name).write_text(text.replace(ORIGINAL, f'ORIGINAL = "{original}"'), "utf-8")
    reference = f"{MODEL.removesuffix('.py')}.{CLASS}"
    return {
        "compressed_layers": kept,
        "auto_map": dict.fromkeys(auto_classes(model), reference),
    }


def kept_layers(model: nn.Module, planned: tuple[PlannedLayer, ...]) -> list[Layer]:
    """The layers whose forms take the place of weights."""
    return [
        layer
        for layer, one in zip(layers_of(model), planned, strict=True)
        if not one.why_dense and not isinstance(layer.factorization, Dense)
    ]


def auto_classes(model: nn.Module) -> list[str]:
    """The ``Auto`` classes of the library that make models of this class.

    Raises:
        ValueError: there are none.
    """
    from transformers.models.auto import modeling_auto

    found = []
    for name, cls in vars(modeling_auto).items():
        mapping = getattr(cls, "_model_mapping", None)
        made = mapping.get(type(model.config), ()) if mapping is not None else ()
        if type(model) in (made if isinstance(made, tuple) else (made,)):
            found.append(name)
    if not found:
        raise ValueError(
            f"no Auto class of transformers makes a {type(model).__name__}, so that code in its "
            "folder would not be found: leave out code=True"
        )
    return found


def _planned(model: nn.Module, layer: Layer) -> PlannedLayer:
    form, name = layer.factorization, layer.modules[0]
    if isinstance(form, Dense):
        return planned_dense(layer, "")
    why = _why_not(model, layer)
    if why:
        return planned_dense(layer, why)
    tensors = {id(tensor): tensor for tensor in form.state_dict(keep_vars=True).values()}
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    return PlannedLayer(name, form.describe(), form.describe(), nbytes)


def _why_not(model: nn.Module, layer: Layer) -> str:
    """Why the code cannot run a layer; empty if it can."""
    if any(is_fused(model, name) for name in layer.modules):
        return "it is a part of a fused tensor"
    for part in layer.factorization.modules():
        if isinstance(part, Factorization) and type(part).__name__ not in HELD:
            return f"the code in the folder has no {type(part).__name__}"
        if isinstance(part, Codebook) and part.coding != "fixed":
            return "the code in the folder reads codes of fixed width"
        if isinstance(part, Sparse) and not isinstance(part.index_form, BlockGrid):
            return "the code in the folder reads no gaps between positions"
    state = layer.factorization.state_dict(keep_vars=True)
    if len({id(tensor) for tensor in state.values()}) < len(state):
        return "parts of it are one tensor"
    if not all(_is_reshaped(model, name, layer.factorization) for name in layer.modules):
        return "its matrix lies in another order than its kernel"
    return ""


def _is_reshaped(model: nn.Module, name: str, form: Factorization) -> bool:
    """Whether the weight of a module that reads it is the matrix in another shape."""
    module = model.get_submodule(name)
    assert isinstance(module, FactorizedLayer)
    if isinstance(module, FactorizedLinear):
        return True
    rows, columns = form.shape
    numbers = torch.arange(rows * columns).view(rows, columns)
    return torch.equal(module.as_weight(numbers).reshape(-1), numbers.reshape(-1))


def _place(model: nn.Module, name: str) -> dict[str, Any]:
    """The module of a form, for the config."""
    module = model.get_submodule(name)
    assert isinstance(module, FactorizedLayer)
    with torch.device("meta"):
        shape = module.as_weight(torch.empty(module.factorization.shape)).shape
    return {
        "name": name,
        "is_linear": isinstance(module, FactorizedLinear),
        "weight": weight_name(model, name),
        "shape": list(shape),
    }


def described(form: Factorization) -> dict[str, Any]:
    """The config of a form, with the shapes and dtypes of its own tensors."""
    config = form.config()
    for name, value in config.items():
        if isinstance(value, dict) and "type" in value:
            config[name] = described(getattr(form, name))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            config[name] = [described(part) for part in getattr(form, name)]
    own = {name: t for name, t in form.state_dict(keep_vars=True).items() if "." not in name}
    tensors = {
        name: [list(tensor.shape), dtype_name(tensor.dtype), isinstance(tensor, nn.Parameter)]
        for name, tensor in own.items()
    }
    return config | {"tensors": tensors}


def stored_tensors_of(form: Factorization) -> dict[str, Tensor]:
    """The tensors of a form as the code holds them: floating-point buffers as bytes."""
    buffers = dict(form.named_buffers())
    found = {}
    for name, tensor in form.state_dict().items():
        own = tensor.detach().cpu().contiguous().clone()
        is_bytes = name in buffers and tensor.is_floating_point()
        found[name] = own.reshape(-1).view(torch.uint8) if is_bytes else own
    return found
