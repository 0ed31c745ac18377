"""Checkpoints of compressed models: one safetensors file, with the structure as JSON in its header.

Never pickle. The stored tensors are those that are counted and that run: a loaded model gives the
outputs of the saved one bit for bit, and the file less its header has
`lowrank.measure.size.nbytes` bytes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.export.extra_state import joined, split
from lowrank.export.skeleton import Layer, Skeleton, check_same, layers_of
from lowrank.factorizations import Factorization
from lowrank.files.fields import Fields
from lowrank.files.paths import as_path
from lowrank.files.tensor_files import TensorFile, check_storable, opened, write
from lowrank.model.contents import View, contents, names_of, split_extra, spread
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.opened import open_weights
from lowrank.model.save_guard import refuse_other_files

FORMAT = 3
# The largest factor of derived bytes over the stored bytes and the dense weights: masks have 8 bits
# where one is stored.
DERIVED = 16
# The module in what `torch.compile` returns, which puts that name before those of its tensors.
COMPILED = "_orig_mod"


def save(model: nn.Module, path: str | Path) -> None:
    """Write a compressed (or dense) model to `path`, whole or not at all.

    Memory that several tensors share, whole or in part of one of them, is stored once. The extra
    state of modules (`get_extra_state`) is stored if it is JSON, with tensors in it.

    Raises:
        ValueError: a tensor or extra state that cannot be stored, by its name, before anything is
            written; `path` is no path, or of something that is no file.
        OSError: the file cannot be written; the text names it.
    """
    target = as_path(path)
    check_module(model)
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            check_storable(name, value)
    _check_forms(model)
    found = contents(model)
    tensors, extra = dict(found.tensors), {}
    for name, value in found.extra.items():
        extra[name], inner = split(name, value)
        tensors |= inner
    header = {
        "format": FORMAT,
        "layers": [layer.to_json() for layer in layers_of(model)],
        "same": found.same,
        "views": {name: asdict(view) for name, view in found.views.items()},
        "frozen": sorted(n for n, p in model.named_parameters() if not p.requires_grad),
        "extra": extra,
    }
    write(target, tensors, "model", header)


def load(model: nn.Module, path: str | Path, device: str | torch.device | None = None) -> nn.Module:
    """The model saved at `path`, built on the architecture of the dense `model`.

    File and architecture are compared before anything is read: each tensor has the same shape and
    dtype in both, and each factorization stands for a weight of its shape in a layer of its kind.

    Args:
        model: a dense model of the same architecture and dtype, whatever its weights; it is not
            changed. What no file holds, such as buffers that are not persistent, comes from it; so
            these may not be on the meta device, while weights may.
        device: where to put it, any but meta; by default each tensor where it is in `model`, or on
            the CPU.

    Raises:
        ValueError: the file is not of this library, is damaged, or does not fit the architecture;
            a device that is not there; a model that is compiled by `torch.compile`.
        FileNotFoundError: it is not there.
    """
    check_module(model)
    _check_device(device)
    by = "lowrank.save"
    # Not inference tensors, even where it is called in inference mode: they could not be trained.
    with torch.inference_mode(False), torch.no_grad():
        with opened(as_path(path), "model", FORMAT, by) as file:
            loaded = _load(model, file)
        refuse_other_files(loaded)
        return loaded if device is None else loaded.to(device)


def _load(model: nn.Module, file: TensorFile) -> nn.Module:
    same, views = _aliases(file)
    count = 8 * (len(file.shapes) + len(same) + len(views) + 1)
    layers = [Layer.of(fields, count) for fields in file.header.each("layers")]
    skeleton = Skeleton(open_weights(model, {n for one in layers for n in one.modules}).model)
    blank = skeleton.with_layers(layers, {})
    _check_fit(blank, file, same, views)
    skeleton.check_memory(layers, DERIVED, file.nbytes)
    frozen = _frozen(blank, file)
    # All checks before reading are done.
    tensors, is_whole = file.read()
    bases = {view.base for view in views.values()}
    values = skeleton.placed(_extras(file, tensors), layers, bases)
    values |= {name: spread(view, values[view.base]) for name, view in views.items()}
    parameters = dict(blank.named_parameters(remove_duplicate=False))
    values = {
        name: nn.Parameter(value, requires_grad=False) if name in parameters else value
        for name, value in values.items()
    }
    values |= {name: values[first] for name, first in same.items()}
    loaded = skeleton.with_layers(layers, values)
    skeleton.fill(loaded, values)
    _check_forms(loaded)
    if not is_whole:
        raise ValueError("it is damaged: its content is not what was written")
    for name, parameter in loaded.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return loaded


def check_module(model: object) -> None:
    """Raise ValueError unless it is a module of PyTorch that is not compiled."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model is a {type(model).__name__} and must be a torch module; of what compress "
            "returns give `.model`"
        )
    compiled = [name for name, _ in model.named_modules() if name.split(".")[-1] == COMPILED]
    if compiled:
        raise ValueError(
            f"model is compiled, and its tensors have other names then: give model.{compiled[0]}, "
            "and compile what is loaded"
        )


def _check_device(device: object) -> None:
    """Raise ValueError unless tensors with numbers can be put there."""
    if device is None:
        return
    allowed = "it must be a name such as 'cpu' or 'cuda', or a torch.device"
    if not isinstance(device, str | torch.device):
        raise ValueError(f"device={device!r}: {allowed}")
    try:
        place = torch.empty(1, device=device)
    except Exception as error:  # Of many kinds, each backend having its own.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device={str(device)!r}: {allowed}, that is there: {reason}") from error
    if place.is_meta:
        raise ValueError("device='meta' has no numbers: leave it out, and nothing need be loaded")


def _check_forms(model: nn.Module) -> None:
    """Raise ValueError if the tensors of a factorization make no matrix."""
    checked: set[int] = set()
    for name, layer in model.named_modules():
        if not isinstance(layer, FactorizedLayer):
            continue
        for form in layer.factorization.modules():
            if isinstance(form, Factorization) and id(form) not in checked:
                checked.add(id(form))
                try:
                    form.check_stored()
                except ValueError as error:
                    raise ValueError(f"layer '{name}': {error}") from error


def _aliases(file: TensorFile) -> tuple[dict[str, str], dict[str, View]]:
    """Further names of one tensor, and views of tensors, that the file has."""
    given, views = file.header.fields("views"), {}
    for name in given:
        fields = given.fields(name)
        count = len(fields.sequence("shape"))
        shape, stride = fields.integers("shape", count), fields.integers("stride", count)
        base = fields.one_of("base", file.shapes.keys() - {name})
        views[name] = View(base, shape, stride, fields.integer("offset"))
    known = file.shapes.keys() | views.keys()
    given = file.header.fields("same")
    same = {name: given.one_of(name, known) for name in given}
    twice = sorted(same.keys() & known | views.keys() & file.shapes.keys())
    if twice:
        raise ValueError(f"{names_of(twice)} are in the file twice")
    return same, views


def _check_fit(
    blank: nn.Module, file: TensorFile, same: dict[str, str], views: dict[str, View]
) -> None:
    """Raise ValueError unless the file has exactly the tensors of the model, shapes and dtypes."""
    own, own_extra = split_extra(blank.state_dict())
    extra = file.header.fields("extra")
    inner = {name for key in extra for name in _inner(extra, key)}
    missing = sorted(inner - file.shapes.keys())
    if missing or not inner.isdisjoint({*same.values(), *(v.base for v in views.values())}):
        raise ValueError(f"extra state has tensors {names_of(missing)} that are not its own")
    shapes = {name: shape for name, shape in file.shapes.items() if name not in inner}
    dtypes = dict(file.dtypes)
    for name, view in views.items():
        shapes[name], dtypes[name] = view.shape, dtypes[view.base]
    for name, first in same.items():
        shapes[name], dtypes[name] = shapes[first], dtypes[first]
    saved, ours = {*shapes, *extra}, {*own, *own_extra}
    missing, surplus = sorted(ours - saved), sorted(saved - ours)
    if missing or surplus:
        raise ValueError(
            f"the file does not fit the model: it lacks {names_of(missing)} and has "
            f"{names_of(surplus)} besides"
        )
    for name, tensor in own.items():
        check_same(name, (shapes[name], dtypes[name]), (tuple(tensor.shape), tensor.dtype))


def _frozen(blank: nn.Module, file: TensorFile) -> set[str]:
    frozen = set(file.header.texts("frozen"))
    parameters = dict(blank.named_parameters())
    unknown = sorted(frozen - parameters.keys())
    if unknown:
        raise ValueError(f"{names_of(unknown)} are frozen in the file and not in the model")
    for name, parameter in parameters.items():
        is_real = parameter.is_floating_point() or parameter.is_complex()
        if name not in frozen and not is_real:
            raise ValueError(f"'{name}' of {parameter.dtype} is not frozen, and cannot be trained")
    return frozen


def _inner(extra: Fields, name: str) -> list[str]:
    """The names of the tensors in an extra state."""
    return [f"{name}.{place}" for place in range(len(extra.fields(name).sequence("tensors")))]


def _extras(file: TensorFile, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The tensors, and the extra state that some of them belong to."""
    extra, values = file.header.fields("extra"), dict(tensors)
    for name in extra:
        inner = [values.pop(place) for place in _inner(extra, name)]
        values[name] = joined(extra.fields(name), inner)
    return values
