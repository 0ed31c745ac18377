"""The architecture that a file is loaded into: a dense model, copied without its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.factorizations import Factorization, rebuild
from lowrank.factorizations.operations import KERNEL_VIEWS, KernelView
from lowrank.files.fields import Fields
from lowrank.model.contents import names_of
from lowrank.model.copying import copied
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.layers import Rule, rule_for
from lowrank.model.sites import Places, Use, stand_in


@dataclass(frozen=True)
class Layer:
    """A factorization and the modules that use it.

    Attributes:
        kinds: of each module what it is besides its tensors, as JSON.
    """

    factorization: Factorization
    view: KernelView
    modules: list[str]
    kinds: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Its description in a file."""
        config = self.factorization.config()
        return {"config": config, "view": self.view, "modules": self.modules, "kinds": self.kinds}

    @classmethod
    def of(cls, fields: Fields, most: int) -> Layer:
        """The layer of a description in a file, with its factorization on the meta device.

        Args:
            most: parts that a factorization can have.

        Raises:
            FieldError: there is no such factorization.
        """
        fields.only("config", "view", "modules", "kinds")
        config, view = fields.fields("config"), fields.one_of("view", KERNEL_VIEWS)
        modules, kinds = fields.texts("modules"), fields.each("kinds")
        if not modules or len(kinds) != len(modules):
            fields.refuse("kinds", [dict(kind) for kind in kinds], "one for each module, and some")
        if _parts(config.value) > most:
            fields.refuse("config", config.value, f"of at most {most} parts, for so many tensors")
        with torch.device("meta"):
            form = rebuild(config)
        return cls(form, view, modules, [dict(kind) for kind in kinds])  # type: ignore[arg-type]


def check_same(
    name: str,
    saved: tuple[tuple[int, ...], torch.dtype],
    own: tuple[tuple[int, ...], torch.dtype],
) -> None:
    """Raise ValueError unless shape and dtype are the same in file and model."""
    if saved == own:
        return
    hint = f": convert the model first, `model.to({saved[1]})`" if saved[0] == own[0] else ""
    raise ValueError(
        f"'{name}' is {saved[0]} {saved[1]} in the file and {own[0]} {own[1]} in the model{hint}"
    )


def layers_of(model: nn.Module) -> list[Layer]:
    """The factorizations of a model."""
    found: dict[int, Layer] = {}
    for name, module in model.named_modules():
        if isinstance(module, FactorizedLayer):
            form = module.factorization
            layer = found.setdefault(id(form), Layer(form, module.view, [], []))
            layer.modules.append(name)
            layer.kinds.append(module.settings)
    return list(found.values())


class Skeleton:
    """The skeleton of a dense model: its modules, and its tensors' shapes, dtypes and devices.

    Raises:
        ValueError: it has no shapes yet.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.stored = dict(_stored(model))
        lazy = [name for name, t in self.stored.items() if nn.parameter.is_lazy(t)]
        if lazy:
            raise ValueError(
                f"{names_of(lazy)} of the model have no shape yet: run it once on an example"
            )

    def check_buffers(self) -> None:
        """Raise ValueError if buffers that no file holds are on the meta device."""
        stored = {id(tensor) for tensor in self.stored.values()}
        derived = [n for n, b in self.model.named_buffers() if b.is_meta and id(b) not in stored]
        if derived:
            raise ValueError(
                f"the buffers {names_of(derived)} of the model are on the meta device, and no file "
                "holds them, since they are not persistent: build the model on the CPU"
            )

    def with_layers(self, layers: Sequence[Layer], values: Mapping[str, Any]) -> nn.Module:
        """A copy of the model with its tensors exchanged and factorizations in its layers.

        Args:
            values: by name; the others are on the meta device.

        Raises:
            ValueError: a factorization does not fit a layer.
        """
        memo: dict[int, Any] = {}
        for name, tensor in self.stored.items():
            if type(tensor) in (Tensor, nn.Parameter) and id(tensor) not in memo:
                blank = torch.empty_like(tensor, device="meta")
                is_parameter = isinstance(tensor, nn.Parameter)
                blank = nn.Parameter(blank, requires_grad=False) if is_parameter else blank
                memo[id(tensor)] = values.get(name, blank)
        places = Places(copied(self.model, instead=memo).model)
        for layer in layers:
            for name, kind in zip(layer.modules, layer.kinds, strict=True):
                _put(places, name, layer, kind)
        return places.model

    def check_memory(self, layers: Sequence[Layer], times: int, stored: int) -> None:
        """Raise ValueError if far more is derived from a file than it and the weights take."""
        forms = [layer.factorization for layer in layers]
        derived = sum(buffer.nbytes for form in forms for buffer in form.buffers())
        dense = sum(tensor.nbytes for tensor in self.stored.values())
        if derived > times * (stored + dense):
            raise ValueError(
                f"its factorizations would take {derived} bytes, and it holds {stored}: they are "
                "not what was saved"
            )

    def placed(
        self, values: Mapping[str, Any], layers: Sequence[Layer], bases: Collection[str]
    ) -> dict[str, Any]:
        """Tensors on the devices, and in the strides, of those that they take the place of.

        Args:
            values: by name, contiguous, on the CPU, where they stay for tensors on the meta device.
            bases: those that stay contiguous, because views of them are made.
        """
        places = dict(self.stored)
        for layer in layers:
            for name in layer.modules:
                rule, module = _dense(self.model, name)
                for own in layer.factorization.state_dict():
                    places[_join(name, f"factorization.{own}")] = rule.weight(module)
        return {
            name: _like(places[name], value, name in bases) if name in places else value
            for name, value in values.items()
        }

    def fill(self, model: nn.Module, values: Mapping[str, Any]) -> None:
        """Give a copy with factorizations its tensors, and make what is derived from them.

        Raises:
            ValueError: the modules refuse them, or something stays on the meta device.
        """
        try:
            model.load_state_dict(values, assign=True)
        except Exception as error:  # Modules of others may fail in any way.
            raise ValueError(f"the model does not take what it holds: {error}") from error
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_meta and not buffer.numel():
                    # Not `empty_like`, which of a meta tensor imports a second's worth of sympy.
                    shape, dtype = buffer.shape, buffer.dtype
                    module._buffers[name] = torch.empty(shape, dtype=dtype, device="cpu")
        empty = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
        if empty:
            raise ValueError(f"nothing says what {names_of(empty)} are")


def _like(own: Tensor, value: Tensor, is_base: bool) -> Tensor:
    """`value` where `own` is, and as it lies there if it has the same shape."""
    placed = value if own.is_meta else value.to(own.device)
    if is_base or own.shape != value.shape or own.is_contiguous():
        return placed
    return torch.empty_like(own, dtype=value.dtype, device=placed.device).copy_(placed)


def _put(places: Places, name: str, layer: Layer, kind: dict[str, Any]) -> None:
    """Put a factorization in the place of one layer."""
    rule, old = _dense(places.model, name)
    weight = rule.weight(old)
    with torch.device("meta"):
        shape = tuple(rule.as_matrix(old, torch.empty(weight.shape), layer.view).shape)
    form = layer.factorization
    check_same(name, (form.shape, form.dtype), (shape, weight.dtype))
    new = stand_in(Use(name, rule, old), old, form, layer.view)
    assert isinstance(new, FactorizedLayer)
    if (new.settings, new.view) != (kind, layer.view):
        raise ValueError(f"'{name}' is {kind} in the file and {new.settings} in the model")
    places.replace(old, new)


def _dense(model: nn.Module, name: str) -> tuple[Rule, nn.Module]:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"the model has no module '{name}', which the file holds") from None
    rule = rule_for(module)
    if rule is None:
        kind = type(module).__name__
        raise ValueError(f"'{name}' is a {kind} in the model, which holds no weight")
    return rule, module


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers, under all their names."""
    yield from model.named_parameters(remove_duplicate=False)
    for path, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield _join(path, name), buffer


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _parts(config: Any) -> int:
    """The number of objects in a nested config."""
    inner = config.values() if isinstance(config, dict) else config
    if not isinstance(config, dict | list):
        return 0
    return isinstance(config, dict) + sum(map(_parts, inner))
