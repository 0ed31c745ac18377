"""Programs of `torch.export` and graphs of ONNX, run by PyTorch alone and by onnxruntime."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from forms import FORMS
from safetensors.torch import load_file
from torch import nn

import lowrank
from lowrank import Quantization, TruncatedSVD
from lowrank.execution.substitute import substitute
from lowrank.export.formats.onnx import file as onnx_file
from lowrank.export.formats.plan import ExportPlan
from lowrank.factorizations import Layout, ScaledLevels
from lowrank.model.factorized import FactorizedLinear
from lowrank.tasks.networks.cifar_resnet import CifarResNet

if importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed", allow_module_level=True)

PROGRAM = Path(__file__).with_name("onnx_program.py")
FORMATS = ("torch_export", "onnx")
WIDTH = 64
MULTIPLIED_OUT = {
    "torch_export": set(),
    "onnx": {
        *("sparse", "sparse 2:4", "pruned and quantized", "low rank + sparse", "low rank × sparse"),
        *("levels of a table, groups of 32", "codes with minima, groups of 32"),
    },
}
INT4 = Quantization(bits=4, group_size=16)
RESNET = Path(os.environ.get("LOWRANK_HUB", ""), "models/akamaster/resnet20-cifar10")
RESNET /= "model.safetensors"
RESNETS = ["ResNet-20, random"] + ["ResNet-20"] * RESNET.is_file()


class Forms(nn.Module):
    """A layer of each form, all on the rows of one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, WIDTH)
        self.layers = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in FORMS})

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.table(ids)
        return {f"y{place}": layer(x) for place, layer in enumerate(self.layers.values())}


class Sounds(nn.Module):
    """Convolutions and a recurrent layer, of a fixed length."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(8, 16, 3, padding=1)
        self.image = nn.Conv2d(1, 8, 3, stride=2, groups=1)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x).relu()
        y = self.lstm(y.transpose(1, 2))[0]
        return self.head(y[:, -1]) + self.image(x[:, None]).mean()


@dataclass
class Case:
    """An exported model and what it was run on.

    Attributes:
        example: of the export; none where the config says it.
        runs: inputs by name.
        expected: outputs of the model itself.
        found: those of the other tool.
    """

    format: str
    model: Any
    folder: Path
    runs: list[dict[str, torch.Tensor]]
    plan: ExportPlan
    expected: list[Any] = field(default_factory=list)
    found: list[Any] = field(default_factory=list)


def forms():
    torch.manual_seed(0)
    methods = {f"layers.{name}": method for name, method in FORMS.items()}
    return lowrank.compress(Forms().eval(), methods).model


def sounds(method):
    torch.manual_seed(0)
    return lowrank.compress(Sounds().eval(), method).model


@torch.no_grad()
def architecture(name, method):
    model = ARCHITECTURES[name].make()
    for parameter in model.parameters():  # As if trained: no two tensors are equal.
        parameter.add_(0.02 * torch.randn_like(parameter))
    return lowrank.compress(model, method).model


def perceptron():
    torch.manual_seed(0)
    layers = (nn.Linear(WIDTH, 48), nn.ReLU(), nn.Linear(48, 16))
    zero_points = Quantization(bits=3, group_size=16, symmetric=False)
    return lowrank.compress(nn.Sequential(*layers), {"0": zero_points, "2": INT4}).model


@torch.no_grad()
def resnet(published):
    """ResNet-20, with weights of the mirror or at random; a stage each of low rank and of codes."""
    torch.manual_seed(0)
    model = CifarResNet(20).eval()
    if published:
        model.load_state_dict(load_file(RESNET))
    else:
        for module in model.modules():  # As if trained: no two tensors are equal.
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_var, module.weight):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (module.running_mean, module.bias):
                    tensor.normal_(std=0.1)
    methods = {"layer1.*": TruncatedSVD(rank=8), "layer2.*": INT4, "layer3.*": Quantization(bits=8)}
    return lowrank.compress(model, methods).model


IDS = torch.arange(24).view(2, 12) % 40
IMAGES = torch.linspace(-20, 20, 2 * 3 * 32 * 32).sin().view(2, 3, 32, 32)
SOUND = torch.linspace(-1, 1, 3 * 8 * 9).sin().view(3, 8, 9)


def wider(inputs):
    """The inputs of another batch, and of token ids another length."""
    return {
        name: torch.cat([value, value[:1]])[:, : value.shape[1] - 1 if value.ndim == 2 else None]
        for name, value in inputs.items()
    }


def text(name):
    inputs = ARCHITECTURES[name].inputs
    return [inputs, wider(inputs)]


def sized(name):
    inputs = ARCHITECTURES[name].inputs
    return [inputs, {key: torch.cat([value, value[:1]]) for key, value in inputs.items()}]


def models():
    """By name: format, model, inputs of runs, and options of the export."""
    ids = [{"input_0": IDS}, {"input_0": IDS[:1, :5]}]
    sound = [{"input_0": SOUND}, {"input_0": SOUND[:1]}]
    for name in FORMATS:
        yield f"forms, {name}", name, forms(), ids, {"example": IDS}
        yield f"Llama, {name}", name, architecture("Llama", INT4), text("Llama"), {}
    rows = torch.linspace(-1, 1, 2 * WIDTH).sin().view(2, WIDTH)
    options = {"example": rows[:1], "matmul_nbits": True}
    yield "Matmul", "onnx", perceptron(), [{"input_0": rows}, {"input_0": rows[:1]}], options
    yield "T5", "onnx", architecture("T5", Quantization(bits=8)), text("T5"), {}
    yield "ViT", "onnx", architecture("ViT", TruncatedSVD(rank=4)), sized("ViT"), {}
    whisper = architecture("Whisper", INT4)
    yield "Whisper", "onnx", whisper.model.encoder, only(sized("Whisper"), "input_features"), {}
    yield "sounds", "onnx", sounds(Quantization(bits=6)), sound, {"example": SOUND}
    yield "low rank", "onnx", sounds(TruncatedSVD(rank=2)), sound, {"example": (SOUND,)}
    images = [{"input_0": IMAGES}, {"input_0": IMAGES[:1].repeat(5, 1, 1, 1).cumsum(0).cos()}]
    for name in RESNETS:
        yield name, "onnx", resnet(name == "ResNet-20"), images, {"example": IMAGES[:1]}


def only(runs, name):
    return [{name: inputs[name]} for inputs in runs]


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """All exports, run by one process of the other tools."""
    made = {}
    for place, (name, format, model, runs, options) in enumerate(models()):
        folder = tmp_path_factory.mktemp(f"case{place}")
        plan = lowrank.export_model(model, format, folder / "out", multiply_out=True, **options)
        made[name] = Case(format, model, folder, runs, plan)
        for number, inputs in enumerate(runs):
            np.savez(folder / f"inputs_{number}.npz", **{k: v.numpy() for k, v in inputs.items()})
            made[name].expected.append(run(model, inputs))
    listed = [
        {"folder": str(c.folder), "format": c.format, "runs": len(c.runs)} for c in made.values()
    ]
    (file := tmp_path_factory.mktemp("list") / "cases.json").write_text(json.dumps(listed))
    subprocess.run([sys.executable, str(PROGRAM), str(file)], check=True)
    for case in made.values():
        case.found = [
            dict(np.load(case.folder / f"outputs_{number}.npz")) for number in range(len(case.runs))
        ]
    return made


@torch.no_grad()
def run(model, inputs):
    if "input_0" in inputs:
        return model(inputs["input_0"])
    return model(**inputs, **({"use_cache": False} if "input_ids" in inputs else {}))


def named(outputs):
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


NAMES = [name for name, *_ in ([f"forms, {f}"] for f in FORMATS)]
NAMES += [f"Llama, {f}" for f in FORMATS]
NAMES += ["Matmul", "T5", "ViT", "Whisper", "sounds", "low rank", *RESNETS]


@pytest.mark.parametrize("name", NAMES)
def test_the_other_tool_gives_the_same_outputs_for_other_batches_and_lengths(name, cases):
    case = cases[name]
    for expected, found in zip(case.expected, case.found, strict=True):
        expected = list(named(expected).values())
        assert len(expected) <= len(found)
        # The same sums in another order: of no more than 64 products of float32, through few
        # layers, a relative 2^-24 · 64 each of the largest sum.
        for value, own in zip(expected, found.values(), strict=False):
            scale = float(value.abs().max())
            np.testing.assert_allclose(own, value, rtol=0, atol=64 * 2**-24 * max(scale, 1))
            assert scale > 0


@pytest.mark.parametrize("format", FORMATS)
def test_the_plan_says_what_is_multiplied_out(format, cases):
    plan = cases[f"forms, {format}"].plan
    lost = {layer.name.removeprefix("layers.") for layer in plan.multiplied_out}
    assert lost == MULTIPLIED_OUT[format]


def stored_bytes(case):
    """Bytes of the numbers in a file."""
    if case.format == "onnx":
        import onnx

        graph = onnx.load(case.folder / "out" / "model.onnx").graph
        return sum(len(one.raw_data) for one in graph.initializer)
    with zipfile.ZipFile(case.folder / "out" / "model.pt2") as file:
        infos = file.infolist()
    folders = ("/data/weights/", "/data/constants/")
    return sum(
        info.file_size
        for info in infos
        if any(part in f"/{info.filename}" for part in folders)
        and not info.filename.endswith(".json")
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_files_weigh_what_the_plan_says(name, cases):
    case = cases[name]
    # Besides constants of the code, such as sizes and positions; equal zeros are stored once.
    assert abs(stored_bytes(case) - case.plan.nbytes) <= 0.015 * case.plan.nbytes + 256


def test_codes_stay_codes(cases):
    import onnx

    def file(name):
        return onnx.load(cases[name].folder / "out" / "model.onnx")

    for name, operator, count in (
        ("Llama, onnx", "DequantizeLinear", 16),
        ("Matmul", "MatMulNBits", 2),
    ):
        kinds = [node.op_type for node in file(name).graph.node]
        assert kinds.count(operator) == count, kinds
    assert not any(node.metadata_props for node in file("Llama, onnx").graph.node)
    codes = [one for one in file("Llama, onnx").graph.initializer if one.data_type == 22]
    assert len(codes) == 16  # int4


@pytest.mark.parametrize("method", [None, INT4], ids=["dense", "codes of 4 bits"])
def test_numbers_too_many_for_one_file_lie_beside_it(method, tmp_path, monkeypatch):
    """The limit is lowered. The folder is moved, and another process reads it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 48), nn.ReLU(), nn.Linear(48, 16)).eval()
    model = model if method is None else lowrank.compress(model, method).model
    x = torch.linspace(-1, 1, 3 * WIDTH).sin().view(3, WIDTH)
    plan = lowrank.plan_export(model, "onnx", example=x)
    for name, limit in (("just fits", plan.nbytes + 99), ("beside", plan.nbytes - 99)):
        monkeypatch.setattr(onnx_file, "LARGEST", limit)
        lowrank.export_model(model, "onnx", tmp_path / name / "made", example=x)
        (tmp_path / name / "made").rename(tmp_path / name / "out")
        np.savez(tmp_path / name / "inputs_0.npz", input_0=x.numpy())
    assert [one.name for one in (tmp_path / "just fits/out").iterdir()] == ["model.onnx"]
    beside = tmp_path / "beside/out"
    assert {one.name for one in beside.iterdir()} == {"model.onnx", "model.onnx.data"}
    # Vectors of less than 256 bytes, such as biases, stay in the graph.
    assert plan.nbytes / 2 < (beside / "model.onnx.data").stat().st_size <= 1.1 * plan.nbytes
    cases = [
        {"folder": str(tmp_path / name), "format": "onnx", "runs": 1}
        for name in ("just fits", "beside")
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    subprocess.run([sys.executable, str(PROGRAM), str(tmp_path / "cases.json")], check=True)
    for name in ("just fits", "beside"):
        (found,) = np.load(tmp_path / name / "outputs_0.npz").values()
        np.testing.assert_allclose(found, model(x).detach(), rtol=0, atol=64 * 2**-24)


def test_a_program_is_no_file_of_this_library(cases):
    path = cases["Llama, torch_export"].folder / "out" / "model.pt2"
    with pytest.raises(ValueError, match=r"a program of torch\.export.*never opened"):
        lowrank.load(path)


def test_kernels_of_an_optimised_model_stay_here(tmp_path):
    model = lowrank.compress(nn.Sequential(nn.Linear(8, 4)), Quantization(bits=4)).model.eval()
    x = torch.linspace(-1, 1, 16).view(2, 8)
    expected = model(x)
    substitute(model[0], lambda x: x.new_zeros(len(x), 4))
    lowrank.export_model(model, "torch_export", tmp_path / "out", example=x)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    torch.testing.assert_close(program(x), expected)
    assert not model(x).any()


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) if float(x.sum()) > 0 else x


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "nothing says which inputs Sequential takes: give example="),
        ({"example": 3}, "example must be tensors.*not 3"),
        ({"example": torch.tensor(3.0)}, "whose first axis is the batch"),
        ({"example": torch.zeros(2, 5)}, "in the layer '0' of"),
        ({"example": {"x": torch.zeros(2, 4)}}, r"takes \['input'\].*given are \['x'\]"),
        ({"example": {"input_1": torch.zeros(2, 4)}}, r"\['input_1'\]: number them from input_0"),
        ({"example": torch.zeros(0, 4)}, r"not input_0 of shape \(0, 4\)"),
        ({"example": "missing.safetensors"}, "No such file"),
    ],
)
def test_other_examples_are_refused(format, options, text, tmp_path):
    model = lowrank.compress(nn.Sequential(nn.Linear(4, 4)), Quantization(bits=8)).model
    with pytest.raises((ValueError, OSError), match=text):
        lowrank.export_model(model, format, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_code_that_depends_on_numbers_is_named(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), Branching())
    with pytest.raises(ValueError, match="in the layer '1' of the model"):
        lowrank.export_model(model, "torch_export", tmp_path / "out", example=torch.ones(2, 4))


class Columns(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, table):
        return self.first(table.float())


def test_a_number_of_integers_that_cannot_change_is_explained(tmp_path):
    example = torch.ones(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"size\(\)\[1\].*\n.*This model takes one size"):
        lowrank.export_model(Columns(), "torch_export", tmp_path / "out", example=example)
    assert not list(tmp_path.iterdir())
    lowrank.export_model(Columns(), "torch_export", tmp_path / "out", example=example.float())


class Rare(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x.mT @ x)


def test_an_operation_without_onnx_is_named(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), Rare())
    with pytest.raises(ValueError, match=r"linalg_eigh.*in the layer '1'.*has no ONNX"):
        lowrank.export_model(model, "onnx", tmp_path / "out", example=torch.ones(2, 3, 4))


def test_levels_with_a_minimum_are_multiplied_out_where_a_format_has_no_such_codes(tmp_path):
    """They come from files of others only, so that no method makes them."""
    codes = torch.arange(64).view(1, 64) % 16
    numbers = torch.full((2,), 0.5), None, torch.full((2,), -3.0)
    form = ScaledLevels(Layout((1, 64), 4, 32), codes, *numbers)
    model = nn.Sequential(FactorizedLinear(form, None)).eval()
    example = torch.ones(2, 64)
    plan = lowrank.export_model(model, "onnx", tmp_path / "a", example=example, multiply_out=True)
    assert "no levels of a table" in plan.layers[0].why_dense
    plan = lowrank.export_model(model, "torch_export", tmp_path / "b", example=example)
    assert plan.layers[0].why_dense == ""
    program = torch.export.load(next((tmp_path / "b").glob("*.pt2")))
    assert torch.equal(program.module()(example), model(example))
