"""Folders of PEFT from adapted models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from lowrank.export.formats.format import Format
from lowrank.export.model_files import as_format, export_model, plan_export
from lowrank.export.peft.base import (
    changed,
    fingerprint,
    module_of,
    tensors_of,
    with_forms,
    write_base,
)
from lowrank.export.peft.config import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    lora_fields,
    shared_fields,
)
from lowrank.export.peft.kinds import kind_of
from lowrank.export.peft.layer import AdaptedLayer, adapted_layer
from lowrank.export.peft.report import Exported, model_bytes, notes_of
from lowrank.export.peft.vera import shared_tensors, vera_fields
from lowrank.factorizations import Dense
from lowrank.files.atomic import check_new, new_folder, replacing
from lowrank.files.paths import as_path
from lowrank.files.tensor_files import check_storable, header_bytes
from lowrank.model.contents import contents, names_of
from lowrank.model.factorized import FactorizedLayer
from lowrank.numerics.checks import check_flag

KIND = "PEFT adapter"


def export_peft(
    model: nn.Module,
    folder: str | Path,
    base: nn.Module,
    *,
    rslora: bool = False,
    base_format: str | Format | None = None,
) -> Exported:
    """Write the adapters of a model as a folder that `peft.PeftModel.from_pretrained` loads.

    An adapted layer is a frozen base with products of low rank beside it. Where the frozen base is
    the weight of the given model, the adapter belongs to that one. Where it differs from it by no
    more than the adapter's rank, as after a start by PiSSA, the part that was taken out goes into
    the adapter, of twice the rank then. Any other, such as a quantized one, goes into a model in
    ``folder/base``, and the adapter belongs to that. It is multiplied out there, which saves no
    bytes, or goes out in `base_format`. Products of more than two factors are multiplied out, and
    factors that layers share are written for each of them.

    All else in which the model differs from the base is written too: biases of adapted layers, and
    any other module whole.

    Args:
        model: with adapters, such as `compress` with a LoRA gives; not changed.
        folder: made if it is not there; files of an adapter in it are replaced. With a base inside
            it is made anew, whole or not at all; an empty one may be there.
        base: the dense model that was adapted, with its weights.
        rslora: whether scales are written as alpha/√rank, and not as alpha/rank.
        base_format: of `lowrank.export_model`, such as "hf", in which the base of other weights is
            written: layers keep the form that it holds, and `base_plan` of the result says which.

    Raises:
        ValueError: a layer whose form has no place there, or which PEFT would compute otherwise, by
            name; a base of another architecture. Nothing is written then.
        OSError: a file cannot be written.
    """
    target = as_path(folder, "folder")
    check_flag("rslora", rslora)
    found = adapted_layers(model, base)
    layers = [_at(name, layer, base) for name, layer in found.items()]
    own = {layer.name: layer.base for layer in layers if layer.is_own}
    base_folder = target / "base" if own else None
    if base_folder is not None:
        check_new(target)
    packed: tuple[nn.Module, Format] | None = None
    if base_format is not None:
        chosen = as_format(base_format, {}).as_base()
        packed = with_forms(base, {name: found[name] for name in own}), chosen
        plan_export(*packed)
    rest = tensors_of(model, base)
    biases, saved = _owners(changed(rest, base), contents(base).same, list(found))
    path = str(base_folder.resolve()) if base_folder else getattr(base, "name_or_path", "") or None
    config = shared_fields(base, layers, path, saved)
    tensors = shared_tensors(layers, found)
    if tensors is None:
        config |= lora_fields(layers, rslora, biases)
        tensors = _tensors(layers)
    else:
        config |= vera_fields(tensors, layers[0].term.dropout, biases)
    tensors |= _rest(rest, saved, list(found) if biases else ())
    for name, tensor in tensors.items():
        check_storable(name, tensor)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"'{name}' has numbers that are not finite")
    base_plan, base_bytes = None, 0
    hashes = {layer.name: fingerprint(layer.base) for layer in layers}
    if base_folder is None:
        target.mkdir(parents=True, exist_ok=True)
        _write(target, tensors, config, hashes)
    else:
        # At once, since a base without its adapter would be in the way of the next try.
        with new_folder(target) as whole:
            inside = whole / base_folder.name
            if packed is None:
                write_base(base, own, inside)
            else:
                base_plan = export_model(*packed, inside, multiply_out=True)
            base_bytes = sum(path.stat().st_size for path in inside.iterdir())
            _write(whole, tensors, config, hashes)
    return Exported(
        target,
        config["peft_type"],
        base_folder,
        {layer.name: layer.rank for layer in layers},
        sum(tensor.nbytes for tensor in tensors.values()),
        model_bytes(found.values()),
        base_bytes,
        saved,
        notes_of(base, layers),
        base_plan,
    )


def adapted_layers(model: nn.Module, base: nn.Module) -> dict[str, FactorizedLayer]:
    """The layers of a model that have a form of their own, by name.

    Raises:
        ValueError: there are none, or the base is no dense model.
    """
    for name, value in {"model": model, "base": base}.items():
        if not isinstance(value, nn.Module):
            raise ValueError(f"{name} is a {type(value).__name__} and must be a torch module")
    own = [name for name, module in base.named_modules() if isinstance(module, FactorizedLayer)]
    if own:
        raise ValueError(f"the base has compressed layers, {names_of(own)}: give the dense model")
    empty = [name for name, tensor in base.state_dict().items() if getattr(tensor, "is_meta", 0)]
    if empty:
        raise ValueError(f"{names_of(empty)} of the base have no numbers: load its weights")
    found = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, FactorizedLayer) and not isinstance(layer.factorization, Dense)
    }
    if not found:
        raise ValueError("no layer of the model has an adapter, so there is nothing to export")
    return found


def _at(name: str, layer: FactorizedLayer, base: nn.Module) -> AdaptedLayer:
    try:
        kind_of(layer, None)  # What the base does not say, or does not have.
        return adapted_layer(name, layer, module_of(base, name))
    except ValueError as error:
        raise ValueError(f"layer '{name}' cannot be exported: {error}") from error


def _owners(
    names: Sequence[str], same: Mapping[str, str], layers: Sequence[str]
) -> tuple[bool, tuple[str, ...]]:
    """Whether biases of adapted layers are among tensors, and the modules that own the others.

    Args:
        same: further names of one tensor → the first. PEFT writes the bias of an adapted layer
            where it is, and so under all its names.

    Raises:
        ValueError: a module that owns one has adapted layers in it.
    """
    biases = {same.get(name, name) for name in names if name.rpartition(".")[0] in layers}
    owners = set()
    for name in names:
        if same.get(name, name) in biases:
            continue
        owner = name.rpartition(".")[0]
        inside = [one for one in layers if not owner or one.startswith(f"{owner}.")]
        if inside:
            raise ValueError(
                f"'{name}' differs from the base, and PEFT saves modules whole, which the one that "
                f"holds it cannot be, for the adapted layers {names_of(inside)} in it: freeze it"
            )
        owners.add(owner)
    outer = [o for o in owners if not any(o.startswith(f"{other}.") for other in owners)]
    return bool(biases), tuple(sorted(outer))


def _tensors(layers: Sequence[AdaptedLayer]) -> dict[str, Tensor]:
    return {
        f"{PREFIX}{layer.name}.{end}": tensor
        for layer in layers
        for end, tensor in layer.tensors().items()
    }


def _rest(
    tensors: Mapping[str, Tensor], saved: Sequence[str], biased: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of the modules that are saved whole, and the biases of the layers in `biased`."""
    inside = tuple(f"{name}." for name in saved)
    whole = {f"{PREFIX}{n}": tensor for n, tensor in tensors.items() if n.startswith(inside)}
    names = {f"{name}.bias": f"{PREFIX}{name}.base_layer.bias" for name in biased}
    return whole | {to: tensors[name] for name, to in names.items() if name in tensors}


def _write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    base: Mapping[str, str],
) -> None:
    """Write the two files, the config last: without it there is no adapter.

    The config of an adapter that was there goes first, since it would read other tensors wrongly.
    """
    metadata = {"format": "pt", "lowrank": json.dumps({"kind": KIND, "base": base})}
    plain = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    with replacing(folder / WEIGHTS) as file:
        file.write_bytes(_with_metadata(save(plain), metadata))
        (folder / CONFIG).unlink(missing_ok=True)
    with replacing(folder / CONFIG) as file:
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """A safetensors file with metadata, which the library itself writes in a random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    return header_bytes(metadata, json.loads(content[8:end])) + content[end:]
