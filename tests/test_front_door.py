"""`import lowrank`: what is there, and what it costs."""

import json
import subprocess
import sys

import programs
import pytest
import torch
from torch import nn

import lowrank
from lowrank import allocation, decomposers


def test_first_lines_of_a_newcomer(tmp_path):
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    result = lowrank.compress(model, lowrank.TruncatedSVD(rank=8))
    lowrank.save(result.model, tmp_path / "small.safetensors")
    inputs = torch.randn(3, 32)
    same = lowrank.load(tmp_path / "small.safetensors", model)
    assert torch.equal(same(inputs), result.model(inputs))


def test_all_names_are_there():
    listed = dir(lowrank)
    assert {"compress", "save", "load", "Select", "TruncatedSVD", "GPTQ"} <= set(listed)
    assert {"MeasureSettings", "MixedAllocation", "Budget"} <= set(listed)
    for name in listed:
        getattr(lowrank, name)
    for room in (decomposers, allocation):
        for name in filter(lambda name: name[0].isupper(), vars(room)):
            assert getattr(lowrank, name) is getattr(room, name)


def test_no_name_is_that_of_a_decomposer_and_of_something_else():
    both = set(vars(decomposers)) & set(vars(allocation))
    assert not [name for name in both if name[0].isupper()]


@pytest.mark.parametrize("name", ["Missing", "missing", "__missing__"])
def test_names_that_are_not(name):
    with pytest.raises(AttributeError, match=f"'lowrank' has no attribute '{name}'"):
        getattr(lowrank, name)


def imported_by(code: str) -> set[str]:
    """The modules that a program imports."""
    whole = (
        f"import json, sys; before = set(sys.modules); {code};"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def using(*names: str) -> str:
    """A program that looks names up."""
    return "; ".join(["import lowrank", *(f"lowrank.{name}" for name in names)])


def test_importing_imports_nothing_else():
    new = imported_by("import lowrank")
    assert "lowrank" in new and not {"torch", "numpy", "scipy", "lowrank.decomposers"} & new


def test_names_bring_little_more_than_torch():
    new = imported_by(
        using("compress", "save", "load", "TruncatedSVD", "CalibratedNorms", "optimize_for")
    )
    # Each takes as long as all of the library, or longer. The compiler brings sympy.
    heavy = {"torch._dynamo", "sympy", "scipy", "tensorly", "pandas", "matplotlib", "transformers"}
    assert not heavy & new
    extras = {"datasets", "torchmetrics", "sklearn", "PIL", "filelock", "huggingface_hub", "hydra"}
    assert not extras & new


def test_what_compresses_no_model_brings_nothing_that_does():
    new = imported_by(using("load", "TruncatedSVD"))
    rooms = {module.split(".")[1] for module in new if module.startswith("lowrank.")}
    assert "decomposers" in rooms
    assert not {"calibration", "allocation", "compression", "tasks", "records", "point"} & rooms


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_while_names_are_imported(enabled):
    """To go through all that torch has made takes as long as the imports."""
    code = (
        "import gc, torch, lowrank\n"
        "full = []\n"
        "gc.collect()\n"
        f"gc.{'enable' if enabled else 'disable'}()\n"
        "gc.set_threshold(1, 1, 1)\n"
        "note = lambda phase, info: phase == 'start' and full.append(info['generation'])\n"
        "gc.callbacks.append(note)\n"
        "get = lowrank.__getattr__\n"
        "full.clear()\n"
        "get('compress')\n"
        f"assert len(full) <= 20 and gc.isenabled() is {enabled}, len(full)\n"
    )
    run = programs.run("-c", code, imported=("torch",))
    assert run.returncode == 0, run.stderr


def test_saving_and_loading_bring_no_compiler():
    """Codes of entropy-coded weights are decoded by functions that compilers do not look into."""
    new = imported_by(
        "import lowrank, torch, tempfile, pathlib;"
        "model = torch.nn.Sequential(torch.nn.Linear(32, 32));"
        "small = lowrank.compress(model, lowrank.EntropyCodedQuantization(bits=3)).model;"
        "file = pathlib.Path(tempfile.mkdtemp()) / 'small.safetensors';"
        "lowrank.save(small, file);"
        "same = lowrank.load(file, model);"
        "assert torch.equal(same(torch.ones(1, 32)), small(torch.ones(1, 32)))"
    )
    assert "torch" in new and not {"torch._dynamo", "sympy"} & new
