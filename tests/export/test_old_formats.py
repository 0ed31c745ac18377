"""Files that earlier versions wrote give the models that they were written from."""

import json

import hostile
import old_network
import pytest
import torch
from safetensors.torch import load_file

import lowrank
from lowrank.export import checkpoint


@pytest.mark.parametrize("form", ["2", "3"])
def test_a_file_of_an_earlier_version_loads(form, tmp_path):
    expected = load_file(old_network.DATA / f"format-{form}-outputs.safetensors")
    model = lowrank.load(old_network.DATA / f"format-{form}.safetensors", old_network.network())
    found = old_network.outputs(model)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    assert model.head.factorization is model.table.factorization
    lowrank.save(model, tmp_path / "now")
    again = old_network.outputs(lowrank.load(tmp_path / "now", old_network.network()))
    assert all(torch.equal(again[name], found[name]) for name in found)
    header, _ = hostile.split((tmp_path / "now").read_bytes())
    assert json.loads(header["__metadata__"]["lowrank"])["format"] == checkpoint.FORMAT


@pytest.mark.parametrize("change", [None, [], {"type": "Sparse"}, {"type": "Codebook"}, "x"])
def test_an_old_file_that_was_changed_is_one_error(change, tmp_path):
    path = tmp_path / "m"
    path.write_bytes((old_network.DATA / "format-2.safetensors").read_bytes())

    def edit(own):
        own["layers"][0]["config"] = change

    with pytest.raises(ValueError, match=r"m: the header.layers"):
        lowrank.load(hostile.edited(path, edit), old_network.network())


def test_an_old_file_says_that_it_needs_a_model():
    with pytest.raises(ValueError, match="does not say how its model is built: give the dense"):
        lowrank.load(old_network.DATA / "format-3.safetensors")
