"""The comparison of a file with the model that it is to be loaded into, before it is read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowrank.export.extra_state import joined
from lowrank.export.skeleton import check_same
from lowrank.files.fields import Fields
from lowrank.files.tensor_files import TensorFile
from lowrank.model.contents import View, names_of, split_extra


def aliases(file: TensorFile) -> tuple[dict[str, str], dict[str, View]]:
    """Further names of one tensor, and views of tensors, that the file has.

    Raises:
        ValueError: they are of tensors that it does not have, or that it has otherwise too.
    """
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


def check_fit(
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


def frozen_in(blank: nn.Module, file: TensorFile) -> set[str]:
    """The names of parameters that are not trained.

    Raises:
        ValueError: the model has none of a name, or one that is trained cannot be.
    """
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


def with_extra_state(file: TensorFile, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The tensors, and the extra state that some of them belong to."""
    extra, values = file.header.fields("extra"), dict(tensors)
    for name in extra:
        inner = [values.pop(place) for place in _inner(extra, name)]
        values[name] = joined(extra.fields(name), inner)
    return values
