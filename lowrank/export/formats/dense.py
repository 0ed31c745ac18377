"""Dense safetensors: the state dict of the dense model, for any tool at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safetensors.torch import save_file
from torch import nn

from lowrank.export.formats.format import Format
from lowrank.export.formats.plan import ExportPlan, PlannedLayer
from lowrank.export.formats.rest import rest_bytes, stored_tensors
from lowrank.export.skeleton import Layer, layers_of
from lowrank.factorizations import Dense
from lowrank.model.dense import dense_model
from lowrank.numerics.storage import dtype_name

FILE = "model.safetensors"


@dataclass(frozen=True)
class DenseTensors(Format):
    """``model.safetensors``: the tensors of the dense model under its names, in the dtype of the
    model, every compressed layer multiplied out.

    A tensor that several modules share is stored once, under its first name, as
    `safetensors.torch.load_model` reads it.
    """

    name: ClassVar[str] = "dense"
    is_dense: ClassVar[bool] = True

    def plan(self, model: nn.Module) -> ExportPlan:
        why = "this format holds dense matrices"
        layers = tuple(
            planned_dense(layer, "" if isinstance(layer.factorization, Dense) else why)
            for layer in layers_of(model)
        )
        return ExportPlan(self.name, layers, rest_bytes(model))

    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        save_file(stored_tensors(dense_model(model)), folder / FILE, metadata={"format": "pt"})


def planned_dense(layer: Layer, why: str) -> PlannedLayer:
    """The place of a layer that is multiplied out.

    Args:
        why: it is; empty if it is dense.
    """
    form = layer.factorization
    nbytes = math.prod(form.shape) * form.dtype.itemsize
    return PlannedLayer(
        layer.modules[0], form.describe(), f"dense {dtype_name(form.dtype)}", nbytes, why
    )
