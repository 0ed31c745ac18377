"""A smaller dense model of PyTorch's own modules, with the few lines that load it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from lowrank.export.cutting.channels import KINDS
from lowrank.export.cutting.cut import cut_model
from lowrank.export.formats.dense import FILE, planned_dense
from lowrank.export.formats.format import Format
from lowrank.export.formats.plan import ExportPlan, PlannedLayer
from lowrank.export.formats.rest import rest_bytes, stored_tensors
from lowrank.export.formats.traced.example import Given, example_field
from lowrank.export.formats.traced.inputs_file import check_example_file
from lowrank.export.skeleton import Layer, layers_of
from lowrank.factorizations import Dense
from lowrank.factorizations.operations import MultiplyTransposed
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.plain import numbers, plain_model, steps_of, why_whole
from lowrank.model.shared_memory import identity
from lowrank.numerics.checks import check_flag

STRUCTURE, PROGRAM = "structure.json", "load.py"
HELD = (*KINDS, nn.Embedding, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU)
# The settings of those modules; each has some of them.
SETTINGS = (
    *("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride"),
    *("padding", "output_padding", "dilation", "groups", "padding_mode"),
    *("num_embeddings", "embedding_dim", "padding_idx", "num_features", "eps", "momentum"),
    *("affine", "track_running_stats", "num_parameters"),
)
LOAD = '''"""The smaller model of this folder, loaded with PyTorch and safetensors alone."""

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

FOLDER = Path(__file__).parent


def load(model: nn.Module, folder: Path = FOLDER) -> nn.Module:
    """Make the dense model of the same architecture the smaller one, in place."""
    structure = json.loads((folder / "structure.json").read_text())
    for name, parts in structure["modules"].items():
        new = [getattr(nn, kind)(**settings) for kind, settings in parts]
        module = new[0] if len(new) == 1 else nn.Sequential(*new)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, module)
    tensors = load_file(folder / "model.safetensors")
    for name, same in structure["same"].items():
        tensors[name] = tensors[same]
    model.load_state_dict(tensors, assign=True)
    return model.eval()
'''


@dataclass(frozen=True)
class PlainModules(Format):
    """``model.safetensors``, ``structure.json`` and ``load.py``: a smaller model of PyTorch's own
    modules, which ``load(dense_model)`` builds in the place of the dense one's, without lowrank.

    A low-rank layer is two or more Linear layers or convolutions (see `plain_model`); the others
    are multiplied out. With `cut`, rows and columns of zeros are cut out of them and of their
    neighbours (see `cut_model`), and the plan does that work to know what is left.

    Attributes:
        cut: whether to.
        example: inputs for it, as `cut_model` takes them.
        whole: names of layers, or glob patterns, that stay one module.
    """

    name: ClassVar[str] = "plain"
    is_dense: ClassVar[bool] = True

    cut: bool = field(default=False, metadata={"help": "cut rows and columns of zeros out first"})
    example: Given = example_field()
    whole: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_flag("cut", self.cut)
        check_example_file(self.example)
        if self.example is not None and not self.cut:
            raise ValueError("example is for cutting: give cut=True with it")

    def plan(self, model: nn.Module) -> ExportPlan:
        if isinstance(model, FactorizedLayer):
            raise ValueError(
                f"the model is one {type(model).__name__}, which cannot be exchanged inside of a "
                "model: put it into an nn.Sequential"
            )
        reasons = why_whole(model, self.whole)
        layers = tuple(_planned(model, layer, reasons) for layer in layers_of(model))
        if not self.cut:
            return ExportPlan(self.name, layers, rest_bytes(model))
        result = cut_model(model, self.example, self.whole)
        notes = [
            f"{one.name}: {one.before[1]}→{one.before[0]} is cut to {one.after[1]}→{one.after[0]}"
            for one in result.cut
        ]
        notes += [f"{name}: zeros are left, because {why}" for name, why in result.left]
        total = sum(tensor.nbytes for tensor in stored_tensors(result.model).values())
        kept = tuple(_after(result.model, layer) for layer in layers)
        return ExportPlan(
            self.name, kept, total - sum(layer.nbytes for layer in kept), tuple(notes)
        )

    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        small = (
            cut_model(model, self.example, self.whole).model
            if self.cut
            else plain_model(model, self.whole)
        )
        tensors, state = stored_tensors(small), small.state_dict(keep_vars=True)
        first = {identity(state[name]): name for name in tensors}
        same = {n: first[identity(t)] for n, t in state.items() if n not in tensors}
        structure = {"modules": _changed(model, small), "same": same}
        save_file(tensors, folder / FILE, metadata={"format": "pt"})
        (folder / STRUCTURE).write_text(json.dumps(structure, indent=1))
        (folder / PROGRAM).write_text(LOAD)


def _planned(model: nn.Module, layer: Layer, reasons: dict[str, str]) -> PlannedLayer:
    name, form = layer.modules[0], layer.factorization
    if isinstance(form, Dense):
        return planned_dense(layer, "")
    if name in reasons:
        return planned_dense(layer, reasons[name])
    steps = steps_of(model.get_submodule(name))  # type: ignore[arg-type]
    shapes = " and ".join(f"{width}→{out}" for out, width in (one.shape for one, _ in steps))
    # Tied layers share the factors that they use in one layout.
    parts: dict[Any, int] = {}
    for use in layer.modules:
        if use in reasons:
            parts[form, False] = math.prod(form.shape) * form.dtype.itemsize
            continue
        for step in steps_of(model.get_submodule(use)):  # type: ignore[arg-type]
            key = step[0], isinstance(step[1], MultiplyTransposed)
            parts[key] = numbers([step]) * step[0].dtype.itemsize
    stored = f"{len(steps)} modules, {shapes}"
    whole = all(isinstance(one, Dense) for one, _ in steps)
    why = "" if whole else "its factors are dense matrices here, each by itself"
    return PlannedLayer(name, form.describe(), stored, sum(parts.values()), why)


def _after(model: nn.Module, layer: PlannedLayer) -> PlannedLayer:
    """The place of a layer in a model that was cut."""
    modules = [m for m in model.get_submodule(layer.name).modules() if type(m) in HELD]
    weights = [m.weight for m in modules]
    nbytes = sum(math.prod(w.shape) * w.dtype.itemsize for w in weights)  # type: ignore[union-attr]
    if not weights or nbytes == layer.nbytes:
        return layer
    stored = f"{layer.stored}, cut to {' and '.join(str(tuple(w.shape)) for w in weights)}"  # type: ignore[union-attr]
    return PlannedLayer(layer.name, layer.form, stored, nbytes, layer.why_dense)


def _changed(model: nn.Module, small: nn.Module) -> dict[str, list[Any]]:
    """The modules that the dense model does not have so, by name: what each is made of."""
    split = {n for n, m in small.named_modules() if isinstance(m, nn.Sequential)}
    old = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, list[Any]] = {}
    for name, module in small.named_modules(remove_duplicate=False):
        parent = name.rpartition(".")[0]
        if name in split and not isinstance(old[name], nn.Sequential):
            found[name] = [_made(part) for part in module.children()]
        elif parent not in found and type(module) in HELD and _differs(module, old[name]):
            found[name] = [_made(module)]
    return found


def _differs(module: nn.Module, old: nn.Module) -> bool:
    return any(getattr(module, name, None) != getattr(old, name, None) for name in SETTINGS) or (
        module._parameters.get("bias") is None
    ) != (getattr(old, "bias", None) is None)


def _made(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """The class of a module and the settings that make it."""
    settings = {name: getattr(module, name) for name in SETTINGS if name in vars(module)}
    if not isinstance(module, _ConvTransposeNd):
        settings.pop("output_padding", None)
    if type(module) in KINDS:
        settings["bias"] = module.bias is not None
    return type(module).__name__, settings
