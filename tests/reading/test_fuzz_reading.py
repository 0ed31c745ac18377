"""Whatever is done to a folder of another tool: a model of finite weights, or one error with its
name."""

import importlib.util
import json
import random
import shutil
from functools import partial

import hostile
import pytest
import torch
from architectures import IDS
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_models import QWEN2, Codes, awq, compressed_tensors, gptq, groups_of, write
from safetensors.torch import load_file, save_file

import lowrank

MOST_TEXT = 2000
# What stands in the place of another number.
NUMBERS = (0, -1, 1, 2**15, torch.nan, torch.inf, -torch.inf, 3e38, -6e4)
DTYPES = (torch.float64, torch.float16, torch.float8_e4m3fn, torch.int64, torch.int8, torch.bool)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of several tools, and the outputs of their models."""
    root = tmp_path_factory.mktemp("others")
    plain, ordered = (partial(Codes.of, bits=4, size=32, order=order) for order in (False, True))
    ways = {
        "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 32}, partial(gptq, bits=4)),
        "awq": ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, awq),
    }
    if importlib.util.find_spec("compressed_tensors") is not None:
        pack = partial(compressed_tensors, bits=4)
        ways["compressed-tensors"] = groups_of(4, 32), pack
        ways["act-order"] = groups_of(4, 32, actorder="group"), partial(pack, order=True)
    made = {}
    for name, (config, pack) in ways.items():
        codes = ordered if name == "act-order" else plain
        write(root / name, QWEN2.make, config, pack, codes)
        made[root / name] = outputs(root / name)
    return made


@torch.no_grad()
def outputs(folder):
    return lowrank.read_compressed(folder).model(IDS).logits


def edit_config(folder, draw):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if draw.random() < 0.7:
        own = {"quantization_config": config["quantization_config"]}
        config = config | {"quantization_config": None} | hostile.mutated(own, draw)
    else:
        config = hostile.mutated(config, draw)
    path.write_text(hostile.text_of(config))


def edit_tensors(folder, draw):
    """One tensor missing, under another name, or of other numbers, another shape or dtype."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name, other = draw.sample(sorted(tensors), 2)
    tensor = tensors.pop(name)
    what = draw.choice(("missing", "renamed", "number", "number", "shape", "dtype", "swapped"))
    if what == "renamed":
        tensors[f"{name}.more"] = tensor
    elif what == "number":
        number = draw.choice(NUMBERS)
        if not tensor.is_floating_point():
            number = draw.randrange(-(2**31), 2**31)
        tensor.view(-1)[draw.randrange(tensor.numel())] = number
        tensors[name] = tensor
    elif what == "shape":
        shapes = ((-1,), (1, -1), (-1, 1), tensor.shape[::-1])
        changes = (tensor[:1], tensor[..., :1], *(tensor.reshape(shape) for shape in shapes))
        tensors[name] = draw.choice(changes).contiguous()
    elif what == "dtype":
        tensors[name] = tensor.to(draw.choice(DTYPES))
    elif what == "swapped":
        tensors[name], tensors[other] = tensors[other], tensor
    save_file(tensors, path)


def edit_file(folder, draw):
    path = folder / "model.safetensors"
    if draw.random() < 0.5:
        header, body = hostile.split(path.read_bytes())
        path.write_bytes(hostile.join(hostile.mutated(header, draw), body))
    else:
        path.write_bytes(hostile.damaged(path.read_bytes(), draw))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_folder_is_a_model_of_finite_weights_or_one_error(
    folders, tmp_path_factory, seed
):
    draw = random.Random(seed)
    folder = tmp_path_factory.getbasetemp() / "damaged-folder"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(draw.choice(list(folders)), folder)
    draw.choice((edit_config, edit_tensors, edit_file))(folder, draw)
    try:
        found = lowrank.read_compressed(folder)
    except ValueError as error:
        assert str(folder) in str(error) and len(str(error)) <= MOST_TEXT, str(error)[:MOST_TEXT]
        return
    for name, tensor in found.model.state_dict().items():
        assert tensor.isfinite().all(), name


def test_folders_that_nobody_changed_are_read(folders):
    for folder, logits in folders.items():
        assert torch.equal(outputs(folder), logits)
