"""ONNX, which onnxruntime runs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch.export import ExportedProgram

from lowrank.export.formats.format import Format
from lowrank.export.formats.onnx.exchange import LaterDense, dense, exchanged
from lowrank.export.formats.onnx.nodes import LATER, NARROW, OPSET
from lowrank.export.formats.onnx.weights import OnnxWeight
from lowrank.export.formats.plan import ExportPlan, PlannedLayer
from lowrank.export.formats.rest import rest_bytes
from lowrank.export.formats.torch_export import own_copy
from lowrank.export.formats.traced.example import Example, Given, example_field, example_of
from lowrank.export.formats.traced.inputs_file import check_example_file
from lowrank.export.formats.traced.program import recorded, with_forms
from lowrank.export.skeleton import Layer, layers_of
from lowrank.factorizations import Factorization
from lowrank.factorizations.fixed_width import fixed_width
from lowrank.model.factorized import FactorizedLayer, FactorizedLinear
from lowrank.numerics.checks import check_flag

FILE = "model.onnx"
# The most numbers of an input of a node that the optimizer evaluates.
SMALL = 16
# Bytes of the numbers in a file; protobuf ends at 2^31, with the graph and its constants.
LARGEST = 3 * 2**29


@dataclass(frozen=True)
class Onnx(Format):
    """``model.onnx``: the graph of the model, for any batch and any length of token ids.

    Low rank is two products, or two convolutions. Codes of evenly spaced levels, entropy codes of
    one step for each row too, stay codes of 4 or 8 bits, which ``DequantizeLinear`` reads in each
    run: bytes are saved, time and, while a layer runs, memory are not. With `matmul_nbits`
    onnxruntime multiplies them as they are, which is faster, and other runtimes refuse the file.
    Both compute in float32. Sparse matrices and codebooks by group are multiplied out.

    Models with more than 1.5 GiB of numbers have them in ``model.onnx.data`` beside the file, since
    a file of ONNX has less than 2 GiB.

    Attributes:
        example: inputs to record a run on; see `TorchExport`.
        matmul_nbits: whether linear layers with groups of 16, 32, 64, … inputs run as
            ``com.microsoft.MatMulNBits``.
    """

    name: ClassVar[str] = "onnx"
    libraries: ClassVar[tuple[str, ...]] = ("onnx", "onnx_ir", "onnxscript")

    example: Given = example_field()
    matmul_nbits: bool = False

    def __post_init__(self) -> None:
        check_flag("matmul_nbits", self.matmul_nbits)
        check_example_file(self.example)

    def plan(self, model: nn.Module) -> ExportPlan:
        example_of(model, self.example)
        modules = dict(model.named_modules())
        layers = []
        for layer in layers_of(model):
            users = [modules[name] for name in layer.modules]
            layers.append(self._planned(layer, users))  # type: ignore[arg-type]
        return ExportPlan(self.name, tuple(layers), rest_bytes(model))

    def _planned(self, layer: Layer, users: list[FactorizedLayer]) -> PlannedLayer:
        own = own_copy(layer.factorization)
        new, why = exchanged(own.form, self._multiplies(users), LaterDense)
        reasons = "; ".join(dict.fromkeys([*filter(None, [own.why_dense]), *why]))
        stored = [part.describe() for part in _parts(new)]
        nbytes = sum(_bytes(part) for part in _parts(new))
        form = layer.factorization.describe()
        described = " and ".join(dict.fromkeys(stored))
        return PlannedLayer(layer.modules[0], form, described, nbytes, reasons)

    def _multiplies(self, users: list[FactorizedLayer]) -> bool:
        """Whether layers that share a weight all multiply by it."""
        return self.matmul_nbits and all(isinstance(user, FactorizedLinear) for user in users)

    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        def exchange(form: Factorization, users: list[FactorizedLayer]) -> nn.Module:
            return exchanged(fixed_width(form).form, self._multiplies(users), dense)[0]

        import onnxscript.optimizer

        example = example_of(model, self.example)
        program = recorded(with_forms(model, exchange), example)
        with _quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = _translated(program, example)
            # What is small is computed, such as sizes; factors are not multiplied out.
            onnxscript.optimizer.optimize_ir(made.model, input_size_limit=SMALL)
            _finish(made.model)
            _save(made.model, folder / FILE)


def _save(model: Any, path: Path) -> None:
    import onnx_ir as ir

    held = [value.const_value for value in model.graph.initializers.values()]
    nbytes = sum(tensor.nbytes for tensor in held if tensor is not None)
    ir.save(model, path, external_data=f"{path.name}.data" if nbytes > LARGEST else None)


def _parts(module: nn.Module) -> list[Any]:
    """The weights of ONNX in what holds a form, and the forms of which something is stored."""
    if isinstance(module, OnnxWeight | LaterDense):
        return [module]
    own = [*module._parameters.values(), *module._buffers.values()]
    found = [part for child in module.children() for part in _parts(child)]
    return [module, *found] if any(t is not None and t.numel() for t in own) else found


def _bytes(part: Any) -> int:
    if isinstance(part, OnnxWeight | LaterDense):
        return part.nbytes
    own = [*part._parameters.values(), *part._buffers.values()]
    return sum(tensor.nbytes for tensor in own if tensor is not None)


def _translated(program: ExportedProgram, example: Example) -> Any:
    """The graph of a program.

    Raises:
        ValueError: ONNX has not all of its operations; the text names them and their layer.
    """
    names = example.names
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            dynamic_shapes=_axes(program, names),
            verbose=False,
            optimize=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(_untranslated(program, error)) from error
    return made


def _axes(program: ExportedProgram, names: list[str]) -> dict[str, dict[int, str]]:
    """Names of the axes that stay open: ``batch``, ``length``, and ``length_1`` for another."""
    inputs = program.graph_signature.user_inputs
    shapes = {one.name: one.meta["val"].shape for one in program.graph.nodes if one.name in inputs}
    found: dict[str, dict[int, str]] = {}
    lengths: dict[str, str] = {}
    for name, own in zip(names, map(str, inputs), strict=True):
        found[name] = {}
        for axis, size in enumerate(shapes[own]):
            if not isinstance(size, int):
                new = "length" if not lengths else f"length_{len(lengths)}"
                found[name][axis] = lengths.setdefault(str(size), new) if axis else "batch"
    return found


def _untranslated(program: ExportedProgram, error: Exception) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = f"{error} {cause}"
    # An operation may be one of those that the exporter takes another apart into.
    for one in [*program.graph.nodes, *program.run_decompositions().graph.nodes]:
        stack = one.meta.get("nn_module_stack") if one.op == "call_function" else None
        packet = str(one.target).rpartition(".")[0]
        if stack and f"'{packet}'" in said:
            name = list(stack.values())[-1][0].removeprefix("model.")
            return (
                f"the operation {one.target}, in the layer {name!r} of the model, has no ONNX: "
                "replace that layer by one of other operations, or choose another format"
            )
    return f"the model cannot be written as ONNX: {str(cause).strip()[:600]}"


def _finish(model: Any) -> None:
    """Give codes their width, and nodes that the optimizer was not to see their operators."""
    import onnx_ir as ir

    narrow: dict[tuple[str, str], Any] = {}
    for one in list(model.graph):
        kind = one.metadata_props.get(NARROW)
        for place in (0, 2) if kind else ():
            if place < len(one.inputs):
                value = one.inputs[place]
                key = (value.name, kind)
                if key not in narrow:
                    narrow[key] = _narrowed(ir, model.graph, value, ir.DataType[kind.upper()])
                one.replace_input_with(place, narrow[key])
        if one.domain == LATER:
            one.domain, one.version = "", None
            if one.op_type == "Gather":
                _cast_codes(ir, model.graph, one)
    for name in {name for name, _ in narrow}:
        if not model.graph.initializers[name].uses():
            del model.graph.initializers[name]
    model.opset_imports.pop(LATER, None)
    _forget_origin(model)


def _forget_origin(model: Any) -> None:
    """Remove what the exporter notes of the code that was run: it is large, and has paths of this
    machine."""
    graph = model.graph
    values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
    for one in graph:
        values += one.outputs
        one.metadata_props.clear()
    for holder in (model, graph, *values):
        holder.metadata_props.clear()


def _narrowed(ir: Any, graph: Any, value: Any, kind: Any) -> Any:
    """A new initializer of 4 bits."""
    codes, name = value.const_value.numpy(), f"{value.name}_{kind.name.lower()}"
    tensor = ir.tensor(codes.astype(kind.numpy()), dtype=kind, name=name)
    new = ir.Value(
        name=tensor.name, shape=value.shape, type=ir.TensorType(kind), const_value=tensor
    )
    graph.register_initializer(new)
    return new


def _cast_codes(ir: Any, graph: Any, gather: Any) -> None:
    """Let a look-up have indices of 32 bits, as it takes them."""
    codes = gather.inputs[1]
    cast = ir.node("Cast", [codes], {"to": ir.DataType.INT32})
    cast.outputs[0].name = f"{codes.name}_int32"
    cast.outputs[0].shape = codes.shape
    cast.outputs[0].dtype = ir.DataType.INT32
    graph.insert_before(gather, cast)
    gather.replace_input_with(1, cast.outputs[0])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's prints and logs of its progress."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
