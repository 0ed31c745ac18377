"""`lowrank show` and `lowrank export`."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import old_network
import pytest
import torch
from forms import FORMS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import lowrank
from experiments import command
from lowrank import Calibration, Quantization
from lowrank.export import formats
from lowrank.export.file_contents import file_contents
from lowrank.export.formats.format import Format
from lowrank.export.formats.plan import ExportPlan
from lowrank.measure.size import nbytes


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64, bias=False))


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a program of the command, and gives what it printed."""

    def act(*words):
        monkeypatch.setattr(sys, "argv", ["lowrank", *map(str, words)])
        command.main()
        return capsys.readouterr().out

    return act


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m.safetensors"
    lowrank.save(lowrank.compress(network(), Quantization(4, group_size=32)).model, path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_what_a_file_holds_is_what_the_model_has(form, tmp_path):
    result = lowrank.compress(network(), FORMS[form])
    lowrank.save(result.model, tmp_path / "m")
    found = file_contents(tmp_path / "m")
    layers = [m for m in result.model.modules() if hasattr(m, "factorization")]
    assert [one.form for one in found.layers] == [m.factorization.describe() for m in layers]
    assert [one.nbytes for one in found.layers] == [nbytes(m.factorization) for m in layers]
    assert found.nbytes == nbytes(result.model)
    for one in found.layers:
        assert one.bits_per_weight == 8 * one.nbytes / (64 * 64)


def test_a_file_is_shown_layer_by_layer(path, run):
    said = run("show", path)
    assert re.search(r"^0 +Quantized 64→64, 4 bits.* +64×64 +2,\d\d\d +4\.\d\d$", said, re.M), said
    assert re.search(r"^0\.bias +float32 +64 +256 +32\.00$", said, re.M), said
    assert "format 4" in said and "of a class that the file does not name" in said
    with safe_open(path, "pt") as file:
        assert file.metadata()["hash"] in said
    total = lowrank.load(path, network())
    assert f"{nbytes(total):,} bytes: " in said


def test_files_of_earlier_versions_are_shown(run):
    for form in "23":
        said = run("show", old_network.DATA / f"format-{form}.safetensors")
        assert f"format {form}\n" in said and "table = head" in said and "Codebook" in said


def test_no_numbers_are_read(path, tmp_path, run):
    data = bytearray(path.read_bytes())
    data[-100:] = bytes(100)
    (tmp_path / "m").write_bytes(data)
    assert run("show", tmp_path / "m") == run("show", path)


def test_plain_files_and_other_kinds_are_shown_too(tmp_path, run):
    save_file(
        {"a": torch.zeros(2, 3), "b": torch.zeros(5, dtype=torch.bfloat16), "c": torch.ones(())},
        tmp_path / "plain",
        metadata={"format": "pt"},
    )
    said = run("show", tmp_path / "plain")
    assert re.search(r"^a +F32 +2×3 +24 +32\.00$", said, re.M)
    assert re.search(r"^b +BF16 +5 +10 +16\.00$", said, re.M)
    assert "tensors of no model of lowrank" in said and "38 bytes in 3 tensors" in said
    save_file({"a\x1b[2J": torch.zeros(2)}, tmp_path / "other")
    assert "a\\x1b[2J" in run("show", tmp_path / "other")
    Calibration({}, {}).save(tmp_path / "statistics")
    assert "statistics of lowrank" in run("show", tmp_path / "statistics")


NEWER = {"lowrank": json.dumps({"kind": "model", "format": 9})}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: f, "is no file"),
        (lambda f: f / "missing", "No such file"),
        (lambda f: (f / "m").write_bytes(b"GGUF" + bytes(99)) and f / "m", "is no whole safetens"),
        (lambda f: torch.save({"a": torch.ones(2)}, f / "m") or f / "m", "is a pickle"),
        (lambda f: save_file({}, f / "m", {"lowrank": "["}) or f / "m", "is not JSON as written"),
        (
            lambda f: (
                save_file({}, f / "m", {"lowrank": json.dumps({"kind": "model", "format": 9})})
                or f / "m"
            ),
            "has format 9, this version reads 2 to 4: a newer lowrank wrote it",
        ),
    ],
    ids=["folder", "nothing", "gguf", "pickle", "header", "newer"],
)
def test_what_cannot_be_shown_is_one_line(make, says, tmp_path, run):
    with pytest.raises(SystemExit, match=says) as caught:
        run("show", make(tmp_path))
    assert str(caught.value).startswith("show: ") and "\n" not in str(caught.value)


def test_an_export_prints_its_plan_and_writes(path, tmp_path, run):
    words = ("export", path, "--format", "dense", "--model", "test_commands:network")
    planned = run(*words, "--plan")
    assert "dense: 33,024 bytes; 0 of 2 compressed layers keep their form" in planned
    assert not list(tmp_path.iterdir())
    assert run(*words, "--out", tmp_path / "out") == f"{planned}{tmp_path / 'out'}\n"
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() == network().state_dict().keys()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--out is not given"),
        (("--out", Path(__file__).parent), "is there already"),
        (("--plan",), "does not say how its model is built"),
        (("--plan", "--model", "nowhere:net"), "builder='nowhere:net' cannot be imported"),
        (("--plan", "--model", "torch.nn:ReLU"), "no module '0', which the file holds"),
    ],
)
def test_what_cannot_be_exported_is_one_line(words, says, path, run):
    with pytest.raises(SystemExit, match=says) as caught:
        run("export", path, "--format", "dense", *words)
    assert str(caught.value).startswith("export: ") and "\n" not in str(caught.value)


def exported(path, format, folder, *words):
    model = ("--model", "test_commands:network", "--multiply-out")
    return ("export", path, "--format", format, "--out", folder / "out", *model, *words)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["input", "input_0"])
def test_example_inputs_are_read_from_a_file(name, rows, path, tmp_path, run):
    """By the name that forward() takes, or by position; the batch stays open, of one row too."""
    save_file({name: torch.zeros(rows, 64)}, tmp_path / "inputs")
    run(*exported(path, "torch_export", tmp_path, "--example", tmp_path / "inputs"))
    program, given = torch.export.load(tmp_path / "out" / "model.pt2").module(), torch.randn(5, 64)
    found = program(given) if name == "input_0" else program(input=given)
    torch.testing.assert_close(found, lowrank.load(path, network())(given))


def test_an_example_is_of_graphs_and_of_cutting_too(path, tmp_path, run):
    save_file({"input": torch.zeros(2, 64)}, tmp_path / "inputs")
    pytest.importorskip("torch_pruning")
    plain = exported(path, "plain", tmp_path, "--cut", "--example", tmp_path / "inputs")
    assert str(tmp_path / "out") in run(*plain)
    onnx = pytest.importorskip("onnx")
    words = exported(path, "onnx", tmp_path / "graph", "--example", tmp_path / "inputs")
    (tmp_path / "graph").mkdir()
    run(*words)
    (given,) = onnx.load(tmp_path / "graph" / "out" / "model.onnx").graph.input
    assert given.name == "input"
    assert [size.dim_param for size in given.type.tensor_type.shape.dim] == ["batch", ""]


def files_of_examples(folder):
    save_file({"pixels": torch.zeros(2, 64)}, folder / "named otherwise")
    save_file({"input_0": torch.zeros(2, 64), "input_2": torch.zeros(2, 64)}, folder / "gap")
    save_file({"input_0": torch.zeros(2, 64), "input_1": torch.zeros(2, 64)}, folder / "two")
    save_file({"input": torch.zeros(0, 64)}, folder / "no rows")
    save_file({"input": torch.tensor(1.0)}, folder / "no axis")
    save_file({}, folder / "empty")
    torch.save({"input": torch.zeros(2, 64)}, folder / "pickle")
    (folder / "cut off").write_bytes((folder / "two").read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "No such file"),
        (".", "is no file"),
        ("", "is empty, and no file is called so"),
        ("pickle", "is a pickle"),
        ("cut off", "is no whole safetensors file"),
        ("named otherwise", r"forward\(\) takes \['input'\].*given are \['pixels'\]"),
        ("two", r"too many positional.*given are \['input_0', 'input_1'\]"),
        ("gap", r"\['input_0', 'input_2'\]: number them from input_0 without a gap"),
        ("no rows", r"of one example or more.*not input of shape \(0, 64\)"),
        ("no axis", r"not input of shape \(\)"),
        ("empty", "whose first axis is the batch.*or a safetensors file"),
    ],
)
def test_files_that_are_no_example_are_one_line(name, says, path, tmp_path, run):
    files_of_examples(tmp_path)
    given = tmp_path / name if name else ""
    with pytest.raises(SystemExit, match=says) as caught:
        run(*exported(path, "torch_export", tmp_path, "--example", given))
    assert str(caught.value).startswith("export: ") and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_an_example_the_option_is_named(path, tmp_path, run):
    with pytest.raises(SystemExit, match="on the command line --example FILE"):
        run(*exported(path, "torch_export", tmp_path))


def test_a_wrong_file_of_examples_ends_before_the_model_is_loaded(tmp_path, run):
    with pytest.raises(SystemExit, match="no example"):
        run(*exported(tmp_path / "no model", "torch_export", tmp_path, "--example", "no example"))


@dataclass(frozen=True)
class Optioned(Format):
    """A format with an option of each kind."""

    name: ClassVar[str] = "optioned"
    bits: int = 8
    scale: float = 1.0
    opset: Literal["a", "b"] = "a"
    tokenizer: str | None = None
    sharded: bool = False
    names: dict[str, str] | None = None
    source: str | Path | None = "here"

    def plan(self, model: nn.Module) -> ExportPlan:
        return ExportPlan(self.name, (), 0, (repr(self),))

    def write(self, model: nn.Module, plan: ExportPlan, folder: Path) -> None:
        pass


def test_options_are_the_fields_of_the_format(path, run, monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "optioned", ("dense", "Optioned"))
    monkeypatch.setattr("lowrank.export.formats.dense.Optioned", Optioned, raising=False)
    words = ("export", path, "--format", "optioned", "--model", "test_commands:network", "--plan")
    assert repr(Optioned()) in run(*words)
    given = ("--bits", 4, "--scale", 0.5, "--opset", "b", "--tokenizer", "x", "--sharded")
    assert repr(Optioned(4, 0.5, "b", "x", True)) in run(*words, *given)
    assert repr(Optioned(source="there")) in run(*words, "--source", "there")
    assert repr(Optioned(source=None)) in run(*words, "--no-source")
    for wrong in (("--bits", "x"), ("--opset", "c"), ("--names", "x"), ("--bit", 4)):
        with pytest.raises(SystemExit):
            run(*words, *wrong)


@pytest.mark.parametrize("program", ["show", "export"])
def test_help_is_there(program, run, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(program, "--help")
    assert f"usage: lowrank {program}" in capsys.readouterr().out
