"""What holds for exports to any format, and the format of dense tensors."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from architectures import ARCHITECTURES
from safetensors.torch import load_file, load_model
from torch import nn

import lowrank
from lowrank import Chain, LoRA, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.export.formats.format import Format
from lowrank.export.formats.plan import ExportPlan, PlannedLayer

METHODS = {
    "svd": TruncatedSVD(rank=2),
    "quantized": Quantization(bits=4),
    "sparse": MagnitudePruning(0.5),
    "sparse and quantized": Chain([MagnitudePruning(0.5), Quantization(bits=4)]),
    "adapter": LoRA(rank=2, alpha=4),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).eval()


def compressed(method=METHODS["quantized"]):
    return lowrank.compress(net(), method).model


def data_bytes(path):
    """Bytes of a safetensors file without its header."""
    content = path.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_dense_tensors_load_into_the_dense_model(method, tmp_path):
    model = compressed(method)
    plan = lowrank.export_model(model, "dense", tmp_path / "out")
    loaded = net()
    load_model(loaded, tmp_path / "out" / "model.safetensors")
    x = torch.randn(5, 8)
    torch.testing.assert_close(loaded(x), model(x))
    assert plan.nbytes == data_bytes(tmp_path / "out" / "model.safetensors")
    assert len(plan.multiplied_out) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "GPT-2", "T5"])
def test_dense_tensors_of_architectures_keep_names_dtype_and_ties(name, dtype, tmp_path):
    dense = ARCHITECTURES[name].make().to(dtype)
    plan = lowrank.export_model(
        lowrank.compress(dense, Quantization(bits=8)).model, "dense", tmp_path
    )
    tensors = load_file(tmp_path / "model.safetensors")
    assert plan.nbytes == data_bytes(tmp_path / "model.safetensors")
    own = dict(dense.named_parameters())  # Tied ones once.
    assert own.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (tensor.shape, tensor.dtype) == (own[name].shape, own[name].dtype)


@dataclass(frozen=True)
class Refusing(Format):
    """A format that holds no compressed layer, and fails in the middle."""

    name: ClassVar[str] = "refusing"
    libraries: ClassVar[tuple[str, ...]] = ()
    fails: bool = False

    def plan(self, model: nn.Module) -> ExportPlan:
        layers = [n for n, m in model.named_modules() if hasattr(m, "factorization")]
        planned = tuple(PlannedLayer(n, "Quantized", "dense", 8, "it has none") for n in layers)
        return ExportPlan(self.name, planned, 4)

    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        (folder / "a").write_text("half")
        if self.fails:
            raise OSError("disk full")


def test_layers_are_multiplied_out_with_leave_only(tmp_path):
    model = compressed()
    with pytest.raises(ValueError, match=r"refusing cannot hold \['0', '3'\], because it has none"):
        lowrank.export_model(model, Refusing(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    plan = lowrank.export_model(model, Refusing(), tmp_path / "out", multiply_out=True)
    assert plan.nbytes == 20 and "multiplied out: it has none" in plan.describe()


def test_a_failed_export_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="disk full"):
        lowrank.export_model(
            compressed(), Refusing(fails=True), tmp_path / "out", multiply_out=True
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["dense", "plain", "onnx", "torch_export"])
def test_a_full_disk_is_one_error_and_leaves_nothing(format, tmp_path):
    resource = pytest.importorskip("resource")
    given = {}
    if format in ("onnx", "torch_export"):
        given["example"] = torch.zeros(2, 8)
    if format == "onnx":
        pytest.importorskip("onnxscript")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*out|out.*File too large"):
            lowrank.export_model(net(), format, tmp_path / "out", **given)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def without_place(name):
    model = net()
    if name == "sparse":
        model.register_buffer("other", torch.eye(3).to_sparse())
    elif name == "meta":
        model.to("meta")
    else:
        model.append(nn.LazyLinear(3))
    return model


@pytest.mark.parametrize("name", ["sparse", "meta", "lazy"])
@pytest.mark.parametrize("format", ["dense", "plain", "torch_export"])
def test_tensors_that_no_file_holds_are_named_before(format, name, tmp_path):
    model = without_place(name)
    with pytest.raises(ValueError, match="cannot be saved: it is"):
        lowrank.plan_export(model, format)
    with pytest.raises(ValueError, match="cannot be saved: it is"):
        lowrank.export_model(model, format, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "zip"}, "format='zip' does not exist"),
        ({"format": 3}, "format=3 must be a name"),
        ({"format": "dense", "bits": 3}, r"has no options \['bits'\]"),
        ({"format": Refusing(), "fails": True}, "are fields of the format"),
        ({"multiply_out": 1}, "multiply_out=1 must be True or False"),
        ({"model": 3}, "must be a torch module"),
        ({"folder": ""}, "is empty"),
    ],
)
def test_other_arguments_are_refused_before_anything_is_written(change, text, tmp_path):
    given = {"model": compressed(), "format": "dense", "folder": tmp_path / "out"} | change
    with pytest.raises(ValueError, match=text):
        lowrank.export_model(**given)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_never_replaced(tmp_path):
    for path in (tmp_path / "file", tmp_path / "folder" / "file"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(ValueError, match="is there already"):
            lowrank.export_model(compressed(), "dense", tmp_path / name)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "mine"


def test_the_model_is_not_changed(tmp_path):
    model = compressed()
    before = copy.deepcopy(model.state_dict())
    lowrank.export_model(model, "dense", tmp_path)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_plan_says_what_would_be_written():
    plan = lowrank.plan_export(compressed(), "dense")
    frame = plan.to_frame()
    assert list(frame["name"]) == ["0", "3"] and list(frame["nbytes"]) == [512, 256]
    assert plan.rest_bytes == (16 + 4) * 4 + 4 * 16 * 4 + 8
