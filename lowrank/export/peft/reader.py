"""Models with the adapters of a folder of PEFT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lowrank.export.peft.attention import NOTE
from lowrank.export.peft.base import fingerprint
from lowrank.export.peft.config import WEIGHTS, check_once
from lowrank.export.peft.given_config import GivenConfig, check_targets, read_config
from lowrank.export.peft.given_tensors import WEIGHT, Given, TensorEntry, sorted_out
from lowrank.export.peft.kinds import LENGTHS
from lowrank.export.peft.layouts import LAYOUTS
from lowrank.export.peft.saved import put
from lowrank.export.peft.target import HostLayer, outside, targets_in
from lowrank.factorizations import Dense, Factorization
from lowrank.factorizations.adapted import Adapted, together
from lowrank.files.fields import Fields, parse
from lowrank.files.paths import as_path
from lowrank.files.tensor_files import NAMES, check_file
from lowrank.model.copying import copied
from lowrank.model.save_guard import refuse_other_files

PICKLE = "adapter_model.bin"


def load_peft(model: nn.Module, folder: str | Path) -> nn.Module:
    """A copy of a model with the adapters of a folder that PEFT, or `export_peft`, wrote.

    Each adapted layer holds its weight, frozen, and the adapter beside it. What the folder holds
    is trainable, and all else is frozen. `lowrank.recovery.merge_adapters` makes the layers dense
    again, `lowrank.recovery.compress_adapters` the adapters smaller. An adapter in more bits than
    the model is rounded to the model's dtype, with a note.

    Names, shapes and the config are compared with the model before any tensor is read.

    Args:
        model: the base of the adapter, dense or compressed; not changed.
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ValueError: another type of adapter than LoRA, DoRA, AdaLoRA or VeRA, parts that are not
            known, layers that are not there or of another shape, a rank above a layer's, numbers
            that are not finite, another base than the one that `export_peft` wrote the adapter
            for; a pickle, which is never opened.
        FileNotFoundError: the folder or a file of it is not there.
    """
    path = as_path(folder, "folder")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__} and must be a torch module")
    if (path / PICKLE).exists() and not (path / WEIGHTS).exists():
        raise ValueError(
            f"{path / PICKLE} is a pickle: reading one can run any code, so it is never opened "
            f"here. Have whoever made it save it as {WEIGHTS}"
        )
    with _naming(path):
        config = read_config(path)
        targets = targets_in(model)
        names = {name: name in targets for name in outside(model)}
        with _opened(path / WEIGHTS) as (stored, metadata, get):
            given = sorted_out(model, config, targets, stored)
            owners = {name: one.owner for name, one in targets.items() if one.owner != name}
            check_targets(config, names, owners, set(given.layers))
            check_once(model, [targets[name].owner for name in given.layers])
            _check_base(metadata, {name: targets[name] for name in given.layers})
            tensors = {name: get(name) for name in given.keys}
        _check_finite(tensors)
        with torch.inference_mode(False), torch.no_grad():
            return _adapted(model, config, given, tensors)


def _adapted(
    model: nn.Module, config: GivenConfig, given: Given, tensors: Mapping[str, Tensor]
) -> nn.Module:
    loaded = copied(model).model
    loaded.requires_grad_(False)
    targets = targets_in(loaded)
    leaves: dict[Any, Dense] = {}
    shared = {name: tensors[key] for name, key in given.shared.items()}
    for name, keys in given.layers.items():
        own = {end: tensors[key] for end, key in keys.items()}
        try:
            form = _form(targets[name], config, own, shared, leaves)
        except ValueError as error:
            raise ValueError(f"layer '{name}': {error}") from error
        if form is not None:
            loaded = targets[name].replaced(loaded, form)
    put(loaded, config.saved, {name: tensors[key] for name, key in given.others.items()})
    refuse_other_files(loaded)
    return loaded


def _form(
    target: HostLayer,
    config: GivenConfig,
    tensors: dict[str, Tensor],
    shared: Mapping[str, Tensor],
    leaves: dict[Any, Dense],
) -> Factorization | None:
    """The adapted weight of one layer; None if its adapter has no rank.

    Args:
        leaves: that several layers share, by what they are; filled.
    """
    weight, lengths = tensors.pop(WEIGHT, None), tensors.pop(LENGTHS, None)
    if weight is not None and not torch.equal(weight, target.stored.detach().to(weight)):
        raise ValueError("the file holds another weight of the base than the model has")
    device, rounded = target.device, set()

    def leaf(matrix: Tensor, key: Any = None) -> Dense:
        if key in leaves:
            return leaves[key]
        own = matrix.to(device, target.dtype).contiguous()
        if not torch.equal(own.to(matrix), matrix):
            rounded.add(f"the adapter is rounded from {matrix.dtype} to {target.dtype}")
            if not bool(own.isfinite().all()):
                raise ValueError(f"its adapter has numbers that are too large for {target.dtype}")
        return Dense(own) if key is None else leaves.setdefault(key, Dense(own))

    term = LAYOUTS[config.kind].term(config, target, {**shared, **tensors}, leaf)
    if term is None:
        return None
    notes = sorted(rounded) + [NOTE] * (target.times > 1)
    if lengths is not None:
        lengths = lengths.flatten().to(device, target.dtype)
    return together(Adapted(target.base(), (term,), lengths), tuple(notes))


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has numbers that are not finite: the training went wrong")


def _check_base(metadata: Mapping[str, str], targets: Mapping[str, HostLayer]) -> None:
    """Raise ValueError if the file says of which weights it is, and the model has others."""
    if "lowrank" not in metadata:
        return
    hashes = Fields(parse(metadata["lowrank"], "the header"), "the header").fields("base")
    for name, target in targets.items():
        if name in hashes and hashes.text(name) != fingerprint(target.matrix()):
            raise ValueError(
                f"layer '{name}' of the model is not that of the base that the adapter was written "
                "for: give that one, in its dtype"
            )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, TensorEntry], Mapping[str, str], Any]]:
    """What a file says of its tensors, its metadata, and what reads one of its tensors."""
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            stored = {
                name: TensorEntry(tuple(part.get_shape()), NAMES.get(part.get_dtype()))
                for name, part in slices.items()
            }
            yield stored, file.metadata() or {}, lambda name: file.get_tensor(name).clone()
    except SafetensorError as error:
        raise ValueError(f"{WEIGHTS} is no whole safetensors file: {error}") from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the folder before the text of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
