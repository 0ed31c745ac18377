"""The walk over the tensors of a model that another tool has compressed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lowrank.factorizations import Dense, Factorization
from lowrank.factorizations.checks import check_numbers
from lowrank.measure.size import nbytes
from lowrank.model.contents import names_of
from lowrank.model.layers import rule_for
from lowrank.model.sites import replace_module
from lowrank.numerics.storage import dtype_name
from lowrank.reading.scheme import REALS, LayerReader
from lowrank.reading.stored import LayerTensors, StoredTensor

# A tensor that old files have, and models derive.
DERIVED = ".rotary_emb.inv_freq"
TWO = "and have other numbers in the file: its config ties what the file does not"


@dataclass(frozen=True)
class ReadLayer:
    """A layer that was stored compressed.

    Attributes:
        form: of its weight, such as ``Quantized 64→64, 4 bits, group 64``, and notes on it.
        file_bytes: of its weight in the file.
        nbytes: of the factorization.
    """

    name: str
    form: str
    file_bytes: int
    nbytes: int


@dataclass(frozen=True)
class ReadModel:
    """A model that another tool has compressed, with factorizations in its layers.

    Attributes:
        model: it computes what its weights say; where another tool also rounds activations, such a
            model is refused, or its layers say so.
        scheme: how it was stored.
        layers: those that were compressed; all others are as in the file.
        file_bytes: of all tensors in the files.
        nbytes: of the model, as this library counts and saves it.
    """

    model: nn.Module
    scheme: str
    layers: tuple[ReadLayer, ...]
    file_bytes: int
    nbytes: int

    def describe(self) -> str:
        """A few lines for people."""
        forms: dict[str, int] = {}
        for layer in self.layers:
            forms[layer.form] = forms.get(layer.form, 0) + 1
        lines = [f"{self.scheme}: {self.file_bytes:,} bytes in the file, {self.nbytes:,} here"]
        return "\n".join([*lines, *(f"  {count} × {form}" for form, count in forms.items())])


@torch.no_grad()
def read_model(
    stored: Mapping[str, StoredTensor],
    scheme: LayerReader,
    network: Callable[[], nn.Module],
    dtype: torch.dtype,
) -> ReadModel:
    """The model of stored tensors.

    Args:
        network: makes it without its weights. It is first made on the meta device, and all shapes
            are compared with those of the file, before any memory is taken.
        dtype: of its matrices and vectors.

    Raises:
        ValueError: tensors that are missing, superfluous or of other shapes, or codes that are none
            of the scheme.
    """
    with torch.device("meta"):
        outline = network()
    found = _Division(outline, stored)
    model = network()
    layers = []
    for name, parts in found.compressed.items():
        form = scheme.read(parts, found.shapes[name], dtype)
        _check_matrix(name, form, dtype)
        model = _with_layer(model, name, form, parts)
        if parts.left:
            surplus = names_of(sorted(parts.left))
            raise ValueError(f"'{name}' has {surplus}, which no layer of {scheme} has")
        said = "; ".join([form.describe(), *form.notes])
        layers.append(ReadLayer(name, said, parts.nbytes, nbytes(form)))
    plain = {name: _numbers(stored[name], shape, dtype) for name, shape in found.plain.items()}
    for first, *others in found.tied:
        if not all(torch.equal(plain[first], plain[name]) for name in others):
            raise ValueError(f"{names_of([first, *others])} are one tensor in the model, {TWO}")
    model.load_state_dict(plain, strict=False)
    total = sum(tensor.nbytes for tensor in stored.values())
    return ReadModel(model.to(dtype).eval(), str(scheme), tuple(layers), total, nbytes(model))


def _check_matrix(name: str, form: Factorization, dtype: torch.dtype) -> None:
    """Raise ValueError if the matrix has numbers that its dtype does not hold."""
    bound = 2.0**9  # Codes are below 2^8, and a minimum may be added to what they stand for.
    for stored in form.state_dict().values():
        if stored.is_floating_point() and stored.numel():
            bound *= max(float(stored.abs().max()), 1.0)  # NaN stays NaN.
    if not bound <= torch.finfo(dtype).max:
        check_numbers(f"the weight of '{name}' in {dtype_name(dtype)}", form.to_dense())


def _numbers(stored: StoredTensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = stored.read(shape, *REALS).to(dtype)
    check_numbers(f"'{stored.name}' in {dtype_name(dtype)}", values)
    return values


def _with_layer(model: nn.Module, name: str, form: Factorization, parts: LayerTensors) -> nn.Module:
    module = model.get_submodule(name)
    bias = getattr(module, "bias", None)
    if "bias" in parts:
        values = _numbers(parts["bias"], (form.shape[0],), form.dtype)
        if isinstance(bias, Tensor):
            bias.copy_(values)
        elif bool(values.any()):  # Some tools give every layer one, of zeros.
            raise ValueError(f"'{name}.bias' is in the file, and the layer has none")
    if isinstance(form, Dense):
        module.get_parameter("weight").copy_(form.weight)
        return model
    weight = module.weight  # One that is tied is used by other modules too.
    users = [one for one in model.modules() if one._parameters.get("weight") is weight]
    for one in users:
        rule = rule_for(one)
        assert rule is not None
        model = replace_module(model, one, rule.build(one, form, "channel"))
    return model


class _Division:
    """The stored tensors as compressed layers, and as tensors that are stored as they are.

    Attributes:
        compressed: the tensors of each compressed layer.
        shapes: of their matrices, (out, in).
        plain: the shapes of the others, by name.
        tied: names of these that are one tensor in the model.
    """

    def __init__(self, outline: nn.Module, stored: Mapping[str, StoredTensor]) -> None:
        self.compressed: dict[str, LayerTensors] = {}
        self.shapes: dict[str, tuple[int, int]] = {}
        state = outline.state_dict(keep_vars=True)
        of_layers = _by_layer(outline, stored)
        for name, tensors in of_layers.items():
            module = outline.get_submodule(name)
            if set(tensors) <= {"weight", "bias"} and tensors["weight"].dtype in REALS:
                continue
            rule = rule_for(module)
            if rule is None or not isinstance(module.weight, Tensor) or module.weight.ndim != 2:
                raise ValueError(f"'{name}' is a {type(module).__name__}, which is not read")
            self.compressed[name] = LayerTensors(name, tensors)
            matrix = rule.matrix(module, "channel")
            self.shapes[name] = (matrix.shape[0], matrix.shape[1])
            if matrix.numel() > 8 * self.compressed[name].nbytes:  # No code has less than a bit.
                raise ValueError(
                    f"'{name}' is {self.shapes[name]} in the model, of which its "
                    f"{self.compressed[name].nbytes} bytes in the file are none"
                )
        inside = {f"{name}.{end}" for name in self.compressed for end in of_layers[name]}
        others = {n for n in stored if n not in inside and not n.endswith(DERIVED)}
        self.plain = {name: tuple(state[name].shape) for name in others if name in state}
        self.tied = self._tied(state)
        surplus = sorted(others - self.plain.keys())
        replaced = inside | {f"{name}.weight" for name in self.compressed}
        present = {id(state[name]) for name in {*self.plain, *(replaced & state.keys())}}
        missing = sorted(name for name, tensor in state.items() if id(tensor) not in present)
        for names, what in ((missing, "lacks"), (surplus, "has, and the model has not,")):
            if names:
                raise ValueError(f"the file {what} {names_of(names)}")
        for name, shape in self.plain.items():
            if stored[name].shape != shape or stored[name].dtype not in REALS:
                raise ValueError(
                    f"'{name}' is {stored[name].shape} {stored[name].dtype} in the file, and "
                    f"{shape} in the model"
                )

    def _tied(self, state: Mapping[str, Tensor]) -> list[list[str]]:
        weights = {f"{name}.weight" for name in self.compressed}
        groups: dict[int, list[str]] = {}
        for name in sorted(self.plain.keys() | weights):
            groups.setdefault(id(state[name]), []).append(name)
        found = [names for names in groups.values() if len(names) > 1]
        for names in found:
            if weights.intersection(names):
                raise ValueError(f"{names_of(names)} are one tensor in the model, {TWO}")
        return found


def _by_layer(
    outline: nn.Module, stored: Mapping[str, StoredTensor]
) -> dict[str, dict[str, StoredTensor]]:
    """The stored tensors of modules that have a weight: by the module's name, and what follows."""
    weighty = {n for n, m in outline.named_modules() if "weight" in m._parameters}
    found: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in stored.items():
        layer = name
        while layer and layer not in weighty:
            layer = layer.rpartition(".")[0]
        if layer:
            found.setdefault(layer, {})[name.removeprefix(f"{layer}.")] = tensor
    return {name: found[name] for name in weighty & found.keys()}
