"""`import lowrank`: what is there, and what it costs."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import lowrank
from lowrank import decomposers


def test_first_lines_of_a_newcomer(tmp_path):
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    result = lowrank.compress(model, lowrank.TruncatedSVD(rank=8))
    lowrank.save(result.model, tmp_path / "small.safetensors")
    inputs = torch.randn(3, 32)
    same = lowrank.load(model, tmp_path / "small.safetensors")
    assert torch.equal(same(inputs), result.model(inputs))


def test_all_names_are_there():
    listed = dir(lowrank)
    assert {"compress", "save", "load", "Select", "TruncatedSVD", "GPTQ"} <= set(listed)
    for name in listed:
        getattr(lowrank, name)
    for name in vars(decomposers):
        if name[0].isupper():
            assert getattr(lowrank, name) is getattr(decomposers, name)


@pytest.mark.parametrize("name", ["Missing", "missing", "__missing__"])
def test_names_that_are_not(name):
    with pytest.raises(AttributeError, match=f"'lowrank' has no attribute '{name}'"):
        getattr(lowrank, name)


def test_importing_imports_nothing_else():
    code = (
        "import sys, json; before = set(sys.modules); import lowrank;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = json.loads(run.stdout)
    assert "lowrank" in new and not {"torch", "numpy", "scipy", "lowrank.decomposers"} & set(new)
