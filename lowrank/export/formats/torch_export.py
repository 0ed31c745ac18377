"""A program of `torch.export`, which PyTorch alone loads and runs."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.export import ExportedProgram

from lowrank.export.formats.format import Format
from lowrank.export.formats.plan import ExportPlan, PlannedLayer
from lowrank.export.formats.rest import rest_bytes
from lowrank.export.formats.traced.example import Given, example_field, example_of
from lowrank.export.formats.traced.inputs_file import check_example_file
from lowrank.export.formats.traced.program import recorded, with_forms
from lowrank.export.skeleton import Layer, layers_of
from lowrank.factorizations import Factorization
from lowrank.factorizations.fixed_width import WithoutDecoder, fixed_width
from lowrank.factorizations.sparse import Sparse
from lowrank.model.copying import copied

FILE = "model.pt2"


@dataclass(frozen=True)
class TorchExport(Format):
    """``model.pt2``: a program of `torch.export`, of PyTorch's own operations, for any batch and
    any length of token ids. Where PyTorch is, ``torch.export.load("model.pt2").module()`` is a
    module that runs it.

    Layers keep their form. Entropy codes, whose decoder PyTorch does not have, are stored as codes
    of one width where they are multiples of one step for each row, and multiplied out elsewhere.
    Codes are read in each call, so a program saves bytes and no time; `torch.compile` of it merges
    the reading with what follows.

    The file may hold a pickle, and so `lowrank.load` does not read it: keep the file of
    `lowrank.save` too.

    Attributes:
        example: inputs to record a run on: a tensor, a tuple of tensors or a dict of them by name.
            Their first axis is the batch. A path is that of a safetensors file of such a dict; see
            `example_of`. Made of the config if none is given, for models of `transformers`.
    """

    name: ClassVar[str] = "torch_export"

    example: Given = example_field()

    def __post_init__(self) -> None:
        check_example_file(self.example)

    def plan(self, model: nn.Module) -> ExportPlan:
        example_of(model, self.example)
        layers = tuple(_planned(layer) for layer in layers_of(model))
        return ExportPlan(self.name, layers, rest_bytes(model) + _derived_bytes(model))

    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        plain = with_forms(model, lambda form, _: _recordable(fixed_width(form).form))
        program = recorded(plain, example_of(model, self.example))
        _forget_origin(program)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _save(program, folder / FILE)


def _save(program: ExportedProgram, path: Path) -> None:
    with _LateErrors(path, "w") as file:
        torch.export.save(program, file)  # type: ignore[arg-type]
    if file.error is not None:
        raise file.error


class _LateErrors(io.FileIO):
    """A file that keeps an error of writing, and does not raise it: PyTorch ends the process then.

    Attributes:
        error: the first one; nothing is written after it.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        left = whole = memoryview(data).cast("B")
        try:
            while len(left) and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return len(whole)


def _forget_origin(program: ExportedProgram) -> None:
    """Remove where operations come from: it has paths of this machine, and PyTorch (2.13) does not
    read it back where a module's name has a comma."""
    for node in program.graph.nodes:
        for name in ("nn_module_stack", "stack_trace"):
            node.meta.pop(name, None)


def _planned(layer: Layer) -> PlannedLayer:
    own, new = layer.factorization, own_copy(layer.factorization)
    return PlannedLayer(
        layer.modules[0],
        own.describe(),
        new.form.describe(),
        new.form.nbytes,
        new.why_dense,
    )


def own_copy(form: Factorization) -> WithoutDecoder:
    """A form as other tools run it, on the same tensors where they need not change."""
    return fixed_width(copied(form, [*form.parameters(), *form.buffers()]).model)


def _recordable(form: Factorization) -> Factorization:
    """A form of which a program holds what is stored alone: masks are made of their index."""
    for part in form.modules():
        if isinstance(part, Sparse):
            del part.mask
    return form


def _derived_bytes(model: nn.Module) -> int:
    """Bytes of the buffers outside of factorizations that no state has and a program needs."""
    found = {
        id(buffer): buffer.nbytes
        for module in model.modules()
        if not isinstance(module, Factorization)
        for name, buffer in module._buffers.items()
        if buffer is not None and name in module._non_persistent_buffers_set
    }
    return sum(found.values())
