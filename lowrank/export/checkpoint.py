"""Checkpoints of compressed models: one safetensors file, with the structure as JSON in its header.

Never pickle. The stored tensors are those that are counted and that run: a loaded model gives the
outputs of the saved one bit for bit, and the file less its header has
`lowrank.measure.size.nbytes` bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from lowrank.export.architecture import INSTEAD, Architecture, architecture_of
from lowrank.export.blank_parameters import check_buffers
from lowrank.export.extra_state import split
from lowrank.export.fit import aliases, check_fit, frozen_in, with_extra_state
from lowrank.export.old_formats import layers_in
from lowrank.export.skeleton import Layer, Skeleton, layers_of
from lowrank.factorizations import Factorization
from lowrank.files.fields import Fields, shown
from lowrank.files.paths import as_path
from lowrank.files.tensor_files import TensorFile, check_storable, opened, write
from lowrank.files.tensor_folders import BY, opened_folder
from lowrank.model.contents import contents, spread
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.opened import open_weights
from lowrank.model.save_guard import refuse_other_files

# Since 4, files say which model of transformers they hold. Older ones are read; see `old_formats`.
FORMAT, OLDEST = 4, 2
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
    check_stored_model(model)
    _check_forms(model)
    found = contents(model)
    tensors, extra = dict(found.tensors), {}
    for name, value in found.extra.items():
        extra[name], inner = split(name, value)
        tensors |= inner
    architecture = architecture_of(model)
    header = {
        "format": FORMAT,
        "layers": [layer.to_json() for layer in layers_of(model)],
        "same": found.same,
        "views": {name: asdict(view) for name, view in found.views.items()},
        "frozen": sorted(n for n, p in model.named_parameters() if not p.requires_grad),
        "extra": extra,
        "architecture": None if architecture is None else architecture.to_json(),
    }
    write(target, tensors, "model", header)


def load(
    path: str | Path,
    model: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    device: str | torch.device | None = None,
) -> nn.Module:
    """The model saved at `path`: a file of `save`, or a folder of `compress_checkpoint`.

    File and architecture are compared before anything is read: each tensor has the same shape and
    dtype in both, and each factorization stands for a weight of its shape in a layer of its kind.

    Args:
        model: a dense model of the same architecture and dtype, whatever its weights, or a callable
            without arguments that makes one; it is not changed. What no file holds, such as buffers
            that are not persistent, comes from it; so these may not be on the meta device, while
            weights may. It can be left out for a model of a class of transformers, which the file
            describes; what is returned is then in eval mode.
        device: where to put it, any but meta; by default each tensor where it is in `model`, or on
            the CPU.

    Raises:
        ValueError: the file is not of this library or of a newer version, is damaged, does not fit
            the architecture or does not say what it is; a device that is not there; a model that
            is compiled by `torch.compile`.
        MissingExtra: transformers is needed and not installed.
        FileNotFoundError: the file is not there.
    """
    if isinstance(path, nn.Module):
        raise ValueError(
            f"path is a {type(path).__name__} and must be a path: a text or a pathlib.Path. The "
            "file comes first: load(path, model)"
        )
    source = as_path(path)
    _check_builder(model)
    _check_device(device)
    # Not inference tensors, even where it is called in inference mode: they could not be trained.
    with torch.inference_mode(False), torch.no_grad():
        with opened_model(source) as file:
            loaded = _load(model, file)
        refuse_other_files(loaded)
        return loaded if device is None else loaded.to(device)


def opened_model(source: Path) -> AbstractContextManager[TensorFile]:
    """Open what holds a model: a file of `save`, or a folder of `compress_checkpoint`.

    Raises:
        ValueError: it holds something else, is not finished or damaged.
        FileNotFoundError: it is not there.
    """
    if source.is_dir():
        return opened_folder(source, "model", FORMAT, BY, OLDEST)
    return opened(source, "model", FORMAT, "lowrank.save", OLDEST)


def _load(given: nn.Module | Callable[[], nn.Module] | None, file: TensorFile) -> nn.Module:
    same, views = aliases(file)
    count = 8 * (len(file.shapes) + len(same) + len(views) + 1)
    fields = layers_in(file.header)
    layers = [Layer.of(one, count) for one in fields]

    def fitting(model: nn.Module) -> tuple[Skeleton, nn.Module]:
        names = {name for one in layers for name in one.modules}
        # A weight that could not be compressed as asked stays as it is in a module that was opened.
        lacking = {*file.shapes, *same, *views} - model.state_dict().keys()
        names |= {name.rpartition(".")[0] for name in lacking}
        skeleton = Skeleton(open_weights(model, names).model)
        blank = skeleton.with_layers(layers, {})
        check_fit(blank, file, same, views)
        skeleton.check_memory(layers, DERIVED, file.nbytes)
        return skeleton, blank

    if given is None:
        architecture = _architecture(file.header)
        empty = architecture.blank(count)
        fitting(empty)
        check_buffers(empty, DERIVED * file.nbytes)
        model = architecture.built()
    else:
        model = given if isinstance(given, nn.Module) else given()
        check_module(model)
    skeleton, blank = fitting(model)
    skeleton.check_buffers()
    frozen = frozen_in(blank, file)
    # All checks before reading are done.
    tensors, is_whole = file.read()
    bases = {view.base for view in views.values()}
    values = skeleton.placed(with_extra_state(file, tensors), layers, bases)
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


def _architecture(header: Fields) -> Architecture:
    if header.get("architecture") is None:
        raise ValueError(f"it does not say how its model is built: {INSTEAD}")
    return Architecture.of(header.fields("architecture"))


def _check_builder(model: object) -> None:
    """Raise ValueError unless it is a model, nothing, or can be called without arguments."""
    if model is None:
        return
    if isinstance(model, nn.Module) or not callable(model):
        return check_module(model)
    try:
        inspect.signature(model).bind()
    except TypeError as error:
        raise ValueError(
            f"model={shown(model)} is called without arguments, and that it does not allow "
            f"({error}): give one such as lambda: Network(10)"
        ) from error


def check_stored_model(model: object) -> None:
    """Raise ValueError unless it is a module, not compiled, whose tensors files can hold."""
    check_module(model)
    assert isinstance(model, nn.Module)
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            check_storable(name, value)


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
