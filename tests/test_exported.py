"""The comparison of runtimes: its rows, what is missing in them, and the memory of a process."""

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import mirrors
import pytest
import text_mirror
import torch
from digits_task import TASK as DIGITS

from experiments.benchmarks import exported
from experiments.benchmarks.exported_runtimes import subject
from experiments.benchmarks.exported_runtimes.cases import CASES
from experiments.benchmarks.exported_runtimes.runtimes import OfGguf
from experiments.benchmarks.exported_runtimes.table import MIB
from lowrank.model.batch import Batch
from lowrank.tasks import CausalLM, HubText, Packing
from lowrank.tasks.sentences import PADDING, SentenceClassifier

if any(importlib.util.find_spec(name) is None for name in exported.LIBRARIES):
    pytest.skip("runtimes are not installed", allow_module_level=True)

MEMORY = {"before": 2 * MIB, "peak": 5 * MIB}
# It keeps in 16 bits what is not in blocks.
ROUNDED = "transformers, GGUF"


def options(method, **others):
    given = {"task": "mine", "method": method, "only": "", "examples": 4, "batch": 2}
    return argparse.Namespace(**given | {"rounds": 2, "threads": 1, "out": None} | others)


@pytest.fixture
def quick(monkeypatch):
    """All in this process, and nothing compiled; the rows that are left."""
    monkeypatch.setattr(exported, "memory", lambda *_: MEMORY)
    rows = [case for case in CASES if not getattr(case.runtime, "compiled", False)]
    monkeypatch.setattr(exported, "CASES", rows)
    assert len(rows) == len(CASES) - 1
    return rows


def check_agreement(values, metric):
    """All rows of the same weights have the same outputs and quality."""
    for _, rows in values.groupby(values["layers"] > 0):
        assert (rows["difference"] < 1e-5).all(), rows
        assert 0 < rows[metric].max() <= (1 + 1e-5) * rows[metric].min(), rows


def test_a_language_model_runs_in_every_runtime(quick, tmp_path, monkeypatch):
    # Other dense rows take long to trace; those of the digits are quick.
    rows = [case for case in quick if case.compressed or case is quick[0]]
    monkeypatch.setattr(exported, "CASES", rows)
    text_mirror.save_llama(tmp_path / "models/me/tiny", text_mirror.byte_tokenizer())
    text_mirror.save_rows(
        tmp_path / "datasets/me/words",
        train={"text": text_mirror.rows(30, seed=1)},
        validation={"text": text_mirror.rows(12, seed=2)},
    )
    mirrors.use(tmp_path, monkeypatch)
    task = CausalLM(
        name="words",
        architecture="tiny",
        pretrained="me/tiny",
        test=HubText("me/words", "validation"),
        train=HubText("me/words", "train"),
        packing=Packing(16),
    )
    work = tmp_path / "work"
    work.mkdir()
    table, missing = exported.compare(task, options("8bit"), work)
    assert missing == []
    values = table.values
    assert [*values["runtime"]] == [case.runtime.name for case in rows]
    rounded = values["runtime"] == ROUNDED
    check_agreement(values[~rounded], "perplexity")
    assert 0 < float(values.loc[rounded, "difference"].item()) < 1e-2
    assert (values["model_bytes"] == 3 * MIB).all()
    first = values.iloc[0]
    assert first["speedup"] == first["bytes_ratio"] == 1 and first["layers"] == 0
    kept = values.set_index(["runtime", "model"])["layers_kept"]
    assert kept["lowrank", "its own file"] == kept["transformers", "with its code"] == 14
    assert kept["transformers, compressed-tensors", "pack-quantized"] == 14
    assert kept[ROUNDED, "blocks"] == 0
    for case in rows:
        files = [path for path in (work / case.folder).rglob("*") if path.is_file()]
        row = values[(values["runtime"] == case.runtime.name) & (values["model"] == case.stored)]
        assert row["bytes"].item() == sum(path.stat().st_size for path in files)


def test_rows_of_formats_that_do_not_hold_the_model_are_missing_with_the_reason(quick, tmp_path):
    table, missing = exported.compare(DIGITS, options("low_rank", examples=64), tmp_path)
    assert {line.partition(": ")[2].partition(":")[0].partition(",")[0] for line in missing} == {
        "transformers"
    }
    assert len(missing) + len(table.values) == len(quick)
    assert all(
        "transformers holds its models" in one or "GGUF is written" in one for one in missing
    )
    check_agreement(table.values, "top1")
    assert set(table.values["layers_kept"]) == {0, 1}
    assert "smaller" in table.to_markdown() and "nan" not in table.to_markdown()


def test_no_row_is_an_error_with_all_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(OfGguf, "libraries", ("torch", "nothing_of_this_name"))
    with pytest.raises(ValueError, match="no row .*\n.*blocks: nothing_of_this_name not installed"):
        exported.compare(DIGITS, options("low_rank", only="blocks"), tmp_path)


@pytest.mark.parametrize(
    "only, says",
    [
        ("nonsense", "exported: no row's name contains --only 'nonsense'"),
        ("with its CODE", "exported: no row can be measured\nmissing: transformers: with its code"),
    ],
)
def test_the_command_says_why_it_measures_nothing(only, says, monkeypatch):
    monkeypatch.setattr(exported, "task_named", lambda _: DIGITS)
    with pytest.raises(SystemExit) as stopped:
        exported.main(["--only", only])
    assert str(stopped.value).startswith(says)


def test_a_task_that_is_not_there_is_said_in_one_line():
    with pytest.raises(SystemExit, match=r"^exported: --task nonsense is not in [^\n]+$"):
        exported.main(["--task", "nonsense"])


def test_a_part_of_a_model_is_exchanged_and_the_rest_stays():
    class Task:
        def forward(self, model, batch):
            return model(batch.only)

    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = SentenceClassifier(BertModel(config), 2, normalize=True).eval()
    torch.nn.init.normal_(model.head.weight)
    ids = torch.tensor([[1, 2, 3], [4, 5, PADDING]])
    batch = Batch((ids,))
    part, inputs = subject.part_of(model, Task(), batch)
    assert part == subject.ExportedPart(
        "encoder", ("input_ids", "attention_mask"), "last_hidden_state"
    )
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    encoder = part.of(model)
    same = part.exchanged(model, lambda given: encoder(**given)[0].detach().numpy())
    assert same(ids).equal(model(ids)) and model.encoder is encoder
    double = part.exchanged(model, lambda given: 2 * encoder(**given)[0] + 1)
    assert not double(ids).allclose(model(ids), atol=1e-3)


@pytest.mark.parametrize("count, rows", [(3, [0, 3, 6]), (20, [*range(10)])])
def test_some_examples_are_spread_over_the_split(count, rows):
    whole = DIGITS.split("test")
    ten = subject.SomeExamples(whole, 10)
    some = subject.SomeExamples(ten, count)
    assert len(some) == len(rows)
    expected = ten.batch(torch.tensor(rows)).only
    assert next(some.batches(20)).only.equal(expected)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells memory")
def test_the_memory_of_a_process_has_the_model(tmp_path):
    """Of a model of 40 MB, in a process that cannot import lowrank."""
    import numpy
    import onnx
    from safetensors.numpy import save_file

    weight = numpy.ones((1000, 10_000), numpy.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1000])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 10_000])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), tmp_path / "model.onnx")
    save_file({"x": numpy.ones((1, 1000), numpy.float32)}, tmp_path / "inputs")
    request = {
        "class": "OnnxRuntime",
        "fields": {},
        "folder": str(tmp_path),
        "inputs": str(tmp_path / "inputs"),
        "modules": ["onnxruntime"],
        "place": "",
        "task": "",
        "threads": 1,
    }
    (tmp_path / "request.json").write_text(json.dumps(request))

    def found():
        command = [sys.executable, "-m", exported.MEMORY, str(tmp_path / "request.json")]
        return subprocess.run(command, capture_output=True, text=True)

    measured = json.loads(found().stdout.splitlines()[-1])
    assert 40e6 < measured["peak"] - measured["before"] < 400e6
    request["modules"] = ["lowrank"]
    (tmp_path / "request.json").write_text(json.dumps(request))
    assert "import of lowrank halted" in found().stderr
