"""Whatever is done to a file, it loads as what was saved, or one ValueError names it.

Half of the cases forge a file that is whole by its hash, as somebody would on purpose; then what
loads may be another model, but it runs, and took no more memory than its file explains.
"""

import copy
import json
import random
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import INNER, OUT, ROWS, structured
from torch import nn

from lowrank.calibration import Calibration
from lowrank.calibration.statistics import Statistics
from lowrank.execution import ExecutionPlan
from lowrank.execution.plan import LayerPlan, Trial
from lowrank.export import checkpoint
from lowrank.files import tensor_files
from lowrank.model.factorized import FactorizedLinear

MOST_TEXT = 2000


def skeleton() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(INNER, OUT), nn.BatchNorm1d(OUT), nn.Linear(OUT, 3, bias=False))
    return nn.Sequential(*layers).eval()


X = torch.linspace(-1, 1, 3 * INNER).view(3, INNER)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files of every form, and the outputs of their models."""
    folder, made = tmp_path_factory.mktemp("forms"), {}
    forms = {name: row.decompose(structured(torch.float32)) for name, row in ROWS.items()}
    for name, form in forms.items():
        model, path = skeleton(), folder / "m"
        model[0] = FactorizedLinear(form, model[0].bias)
        checkpoint.save(model.eval(), path)
        made[name] = path.read_bytes(), model(X).detach()
    return made


def changed(data: bytes, draw: random.Random, path: Path) -> Path:
    """A file with one thing changed, in its structure, its outer header or anywhere."""
    path.write_bytes(data)
    what = draw.random()
    if what < 0.6:
        return hostile.edited(path, lambda own: hostile.mutated(own, draw))
    if what < 0.75:
        header, body = hostile.split(data)
        data = hostile.join(hostile.mutated(header, draw), body)
    else:
        data = hostile.damaged(data, draw)
    path.write_bytes(data)
    return path


def refused(error: ValueError, path: Path) -> None:
    """The error names the file, and people can read it."""
    assert str(path) in str(error) and len(str(error)) <= MOST_TEXT, str(error)[:MOST_TEXT]


@settings(max_examples=400)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_model_is_what_was_saved_or_one_error(models, tmp_path_factory, seed):
    draw = random.Random(seed)
    data, outputs = models[draw.choice(list(models))]
    path = changed(data, draw, tmp_path_factory.getbasetemp() / "damaged.safetensors")
    try:
        loaded = checkpoint.load(path, skeleton())
    except ValueError as error:
        return refused(error, path)
    assert torch.equal(loaded(X), outputs)


@settings(max_examples=400)
@given(seed=st.integers(0, 2**32))
def test_a_forged_model_runs_or_is_one_error(models, tmp_path_factory, seed):
    draw = random.Random(seed)
    data, _ = models[draw.choice(list(models))]
    path = changed(data, draw, tmp_path_factory.getbasetemp() / "forged.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        read = tensor_files.TensorFile.read
        patch.setattr(tensor_files.TensorFile, "read", lambda file: (read(file)[0], True))
        try:
            loaded = checkpoint.load(path, skeleton())
        except ValueError as error:
            return refused(error, path)
    assert loaded(X).shape == (3, 3)


def statistics() -> Calibration:
    torch.manual_seed(0)
    inputs = torch.randn(20, 6)
    moment, rows = inputs.T @ inputs / 20, torch.rand(4)
    entries = {
        "a": Statistics(moment, rows, 20),
        "b": Statistics(moment, None, 20),
        "c": Statistics(moment.diagonal().contiguous(), None, 7),
        "d": Statistics(None, rows, 3),
        "e": Statistics(None, None, 0, ("nothing reached it", "as was said")),
    }
    return Calibration(entries, {"model": "abc", "moment": "full", "outputs": True})


def equal(one: Calibration, other: Calibration) -> bool:
    def plain(calibration):
        return {
            name: [value.tolist() if isinstance(value, torch.Tensor) else value for value in entry]
            for name, entry in calibration.statistics.items()
        }

    return plain(one) == plain(other) and one.source == other.source


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_damaged_statistics_are_what_was_saved_or_one_error(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "statistics"
    statistics().save(path)
    assert equal(Calibration.load(path), statistics())
    changed(path.read_bytes(), random.Random(seed), path)
    try:
        loaded = Calibration.load(path)
    except ValueError as error:
        return refused(error, path)
    assert equal(loaded, statistics())


PLAN = ExecutionPlan(
    "exact",
    2,
    "cpu",
    {"cpu": "x", "torch": "2"},
    (
        LayerPlan("a", "Sparse", (2, 3), "dense", trials=(Trial("dense", seconds=1e-3),)),
        LayerPlan("b", "LowRank", (2, 3), "factored", {"factors.0": "csr"}, speedup=1.5),
    ),
    (("c", "read by another"),),
)


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_plan_is_a_plan_or_one_error(seed):
    draw = random.Random(seed)
    if draw.random() < 0.7:
        text = hostile.text_of(hostile.mutated(json.loads(PLAN.to_json()), draw))
    else:
        text = hostile.damaged(PLAN.to_json().encode(), draw).decode(errors="replace")
    try:
        plan = ExecutionPlan.from_json(text)
    except ValueError as error:
        assert "this is no plan of optimize_for" in str(error) and len(str(error)) <= MOST_TEXT
        return
    assert ExecutionPlan.from_json(plan.to_json()) == plan and plan.summary() is not None


GAPS = {"coding": "fixed", "bits": 4, "entries": 1}
# Each asks for gigabytes, in a file of about a kilobyte.
LARGE = {
    "a shape": {"type": "Quantized", "shape": [10**5, 10**5], "bits": 4},
    "a shape of halves": {"type": "Half", "shape": [10**6, 10**5]},
    "a stream": {"type": "EntropyCoded", "stream_bytes": 3 * 10**9},
    "a codebook": {"type": "Codebook", "bits": 4, "stream_bytes": 3 * 10**9},
    "codes": {"type": "Codebook", "shape": [10**6, 10**5], "bits": 4, "coding": "huffman"},
    "gaps": {"type": "Sparse", "index": GAPS | {"stream_bytes": 3 * 10**9}},
    "a matrix between": {"type": "Product"},
    "a mask": {"type": "Sparse", "shape": [10**6, 10**6], "block": [10**6, 10**6]},
    "a grid": {"type": "PermutedProduct", "grid": [10**6, 10**6]},
}
PROGRAM = """
import resource, sys, torch
from pathlib import Path
from torch import nn
from lowrank.export import checkpoint
from lowrank.factorizations import Factorization, Layout, ScaledLevels
checkpoint.load  # Imported, and its memory taken, before the limit.
skeleton = nn.Sequential(nn.Linear(16, 24))
torch.ones(9).view(3, 3) @ torch.ones(3, 3)
for path in sys.argv[1:]:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26, resource.RLIM_INFINITY))
    try:
        checkpoint.load(path, skeleton)
        print("loaded")
    except ValueError as error:
        print("refused" if path in str(error) else error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_small_file_takes_little_memory(tmp_path):
    dense = {"type": "Dense", "shape": [24, 16], "dtype": "float32"}
    empty = {"type": "Dense", "shape": [1, 0], "dtype": "float32"}
    base = {"dtype": "float32", "scale_dtype": "float16", "zero_dtype": None, "kept_blocks": 0}
    base |= {"group_size": "channel", "reach": 3, "stored_dtype": "float16", "values": empty}
    base |= {"left": dense, "right": dense, "ranks": [1, 1], "shape": [24, 16], "block": [1, 1]}
    base |= {"coding": "fixed", "stream_bytes": 1, "index": None}
    base["widths"] = dict.fromkeys(("row_step", "column_step", "row_spread", "column_spread"), 8)
    inner = [{**base, "type": "Sparse", "shape": [a, b], "block": [a, b]} for a, b in
             ((24, 10**9), (10**9, 16))]  # fmt: skip
    base["factors"] = inner
    paths = []
    for name, config in LARGE.items():
        layer = {"config": base | config, "view": "channel", "modules": ["0"]}
        layer["kinds"] = [{"kind": "linear"}]
        tensors = {
            f"0.factorization.{name}": torch.zeros(1) for name in ("codes", "stored", "mask")
        }
        for place in (0, 1):
            tensors[f"0.factorization.factors.{place}.bitmask"] = torch.zeros(1, dtype=torch.uint8)
            tensors[f"0.factorization.factors.{place}.values.weight"] = torch.zeros(1, 0)
        paths.append(hostile.forged(tmp_path / name, copy.copy(tensors), layers=[layer]))
    assert all(path.stat().st_size < 8000 for path in paths)
    command = [sys.executable, "-c", PROGRAM, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd())
    assert done.stdout.split() == ["refused"] * len(paths), done.stdout + done.stderr
