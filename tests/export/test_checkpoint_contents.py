"""What a checkpoint keeps besides plain tensors, and what it does with the file."""

import copy
import io
import os
import resource

import pytest
import torch
from torch import nn

from lowrank.calibration import Calibration
from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.export import checkpoint
from lowrank.measure.size import nbytes, params, trainable_params


def small(model=None):
    return compress(
        nn.Sequential(nn.Linear(8, 8)) if model is None else model, TruncatedSVD(2)
    ).model


def file_bytes(path):
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


class Stateful(nn.Module):
    """A layer, and a state that is no tensor of it."""

    def __init__(self, state=None):
        super().__init__()
        self.layer, self.state = nn.Linear(8, 8), state

    def forward(self, x):
        return self.layer(x)

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


STATES = {
    "mapping": {"seen": 3, "names": ["a", "é"], "share": 0.1, "on": True, "none": None},
    "nested": {"deep": [[{"x": [1, [2, [3]]]}]]},
    "tensor": torch.arange(6.0).view(2, 3),
    "tensors inside": {"a": [torch.ones(2), {"b": torch.arange(3)}], "c": None},
    "none": None,
    "text": "text",
    "large": 2**63,
    "empty": {},
    "half precision": {"scale": torch.full((3,), 1 / 3, dtype=torch.bfloat16)},
    "like a reference": {"tensors": [["value"]], "value": {"tensor": 0}},
}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        pairs = zip(one, other, strict=True)
        return len(one) == len(other) and all(same(*pair) for pair in pairs)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", STATES)
def test_extra_state_comes_back(tmp_path, name):
    model = nn.Sequential(Stateful(STATES[name]), Stateful({"other": 1}))
    result = small(model)
    checkpoint.save(result, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m", nn.Sequential(Stateful(), Stateful()))
    assert same(STATES[name], loaded[0].state) and loaded[1].state == {"other": 1}
    assert torch.equal(loaded[0](torch.ones(1, 8)), result[0](torch.ones(1, 8)))
    assert file_bytes(tmp_path / "m") == nbytes(result)


@pytest.mark.parametrize(
    "state",
    [
        (1, 2),
        {1: "a"},
        {"x": {1, 2}},
        io.BytesIO(b"x"),
        {"f": len},
        float("nan"),
        {"x": [b"bytes"]},
        2**70,
        nn.Linear(1, 1),
        torch.ones(2).to_sparse(),
        torch.empty(2, device="meta"),
    ],
    ids=lambda state: type(state).__name__,
)
def test_extra_state_that_no_json_holds_is_refused_before_anything_is_written(tmp_path, state):
    model = nn.Sequential(nn.ReLU(), Stateful(state))
    with pytest.raises(ValueError, match=r"'1\._extra_state(\.0)?' cannot be saved"):
        checkpoint.save(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_extra_state_of_another_architecture_is_refused(tmp_path):
    checkpoint.save(nn.Sequential(Stateful({"x": 1})), tmp_path / "m")
    plain = nn.Sequential(nn.Linear(8, 8))
    with pytest.raises(ValueError, match="_extra_state"):
        checkpoint.load(tmp_path / "m", plain)
    checkpoint.save(plain, tmp_path / "m")
    with pytest.raises(ValueError, match="_extra_state"):
        checkpoint.load(tmp_path / "m", nn.Sequential(Stateful()))


class Shares(nn.Module):
    """Layers that are parts of the memory of the first."""

    def __init__(self):
        super().__init__()
        self.whole = nn.Linear(6, 4, bias=False)
        memory = self.whole.weight.detach()
        self.transposed, self.rows = nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False)
        self.strided, self.twin = nn.Linear(3, 4, bias=False), nn.Linear(6, 4, bias=False)
        self.tied = nn.Linear(6, 4, bias=False)
        self.transposed.weight = nn.Parameter(memory.T)
        self.rows.weight = nn.Parameter(memory[2:], requires_grad=False)
        self.strided.weight = nn.Parameter(memory[:, ::2])
        self.twin.weight = nn.Parameter(memory)
        self.tied.weight = self.whole.weight
        self.register_buffer("flat", memory.view(-1)[3:9])

    def forward(self, x):
        return self.transposed(self.whole(x)) + self.rows(x).sum() + self.flat


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_views_of_one_memory_are_stored_once_and_stay_views(tmp_path, device):
    model = Shares()
    assert nbytes(model) == 4 * 24 and params(model) == trainable_params(model) == 24
    checkpoint.save(model, tmp_path / "m")
    assert file_bytes(tmp_path / "m") == 4 * 24
    with torch.device(device):
        skeleton = Shares()
    loaded = checkpoint.load(tmp_path / "m", skeleton)
    x = torch.randn(3, 6)
    assert torch.equal(loaded(x), model(x))
    assert nbytes(loaded) == 4 * 24 and loaded.tied.weight is loaded.whole.weight
    assert loaded.twin.weight is not loaded.whole.weight
    assert not loaded.rows.weight.requires_grad and loaded.whole.weight.requires_grad
    with torch.no_grad():
        loaded.whole.weight.zero_()
    assert not any(bool(tensor.any()) for tensor in loaded.state_dict().values())


def test_parts_of_one_memory_that_do_not_meet_are_stored_each(tmp_path):
    memory, model = torch.randn(8, 8), nn.Sequential(nn.Linear(4, 8, False), nn.Linear(4, 8, False))
    model[0].weight, model[1].weight = (nn.Parameter(part) for part in memory.chunk(2, dim=1))
    checkpoint.save(model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m", copy.deepcopy(model))
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(loaded, model, strict=True))
    assert file_bytes(tmp_path / "m") == nbytes(model) == 4 * 64


def test_parts_of_one_memory_that_overlap_are_refused_by_name(tmp_path):
    memory, model = torch.randn(6, 4), nn.Sequential(nn.Linear(4, 4, False), nn.Linear(4, 4, False))
    model[0].weight, model[1].weight = nn.Parameter(memory[:4]), nn.Parameter(memory[2:])
    with pytest.raises(ValueError, match="'0.weight' and '1.weight' share some of their memory"):
        checkpoint.save(model, tmp_path / "m")
    assert not list(tmp_path.iterdir())


class Hub(nn.Sequential):
    """As models of the Hugging Face hub are."""

    def save_pretrained(self, folder):
        raise AssertionError("saved")

    def push_to_hub(self, name):
        raise AssertionError("pushed")


def test_ways_to_save_that_know_no_factorization_are_refused(tmp_path):
    model = nn.Sequential(Hub(nn.Linear(8, 8)))
    result = small(model)
    checkpoint.save(result, tmp_path / "m")
    for one in (result, checkpoint.load(tmp_path / "m", model), copy.deepcopy(result)):
        for way in ("save_pretrained", "push_to_hub"):
            with pytest.raises(ValueError, match=f"{way} does not know .*lowrank.save"):
                getattr(one[0], way)("folder")
    with pytest.raises(AssertionError, match="saved"):
        model[0].save_pretrained("folder")


def test_a_model_of_transformers_refuses_save_pretrained(tmp_path):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "vocab_size": 9}
    model = BertModel(BertConfig(num_hidden_layers=1, num_attention_heads=1, **sizes))
    with pytest.raises(ValueError, match="lowrank.save"):
        compress(model, Quantization(8)).model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [100, 217, 218, 240, 255])
def test_any_name_that_the_file_system_takes_can_be_saved(tmp_path, length):
    path = tmp_path / ("x" * length)
    checkpoint.save(small(), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    checkpoint.load(path, nn.Sequential(nn.Linear(8, 8)))


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("old")
    (tmp_path / "link").symlink_to("far/file")
    checkpoint.save(small(), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and os.readlink(tmp_path / "link") == "far/file"
    checkpoint.load(tmp_path / "far" / "file", nn.Sequential(nn.Linear(8, 8)))
    assert len(list((tmp_path / "far").iterdir())) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: folder,
        lambda folder: folder / "missing" / "m",
        lambda folder: folder / "file" / "m",
        lambda folder: folder / ("x" * 300),
    ],
    ids=["a folder", "a folder that is missing", "a file as a folder", "too long"],
)
def test_a_path_that_cannot_be_written_is_named_and_left(tmp_path, make):
    (tmp_path / "file").write_text("x")
    path = make(tmp_path)
    with pytest.raises((ValueError, OSError)) as caught:
        checkpoint.save(small(), path)
    assert str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model"
    checkpoint.save(small(), path)
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    large = nn.Sequential(nn.Linear(100, 100))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limit[1]))
        with pytest.raises(OSError, match="File too large: .*model"):
            checkpoint.save(large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("model", [None, "model", torch.ones(2), {"weight": torch.ones(2)}])
def test_what_is_no_model_is_refused(tmp_path, model):
    with pytest.raises(ValueError, match="must be a torch module.*give `.model`"):
        checkpoint.save(model, tmp_path / "m")
    with pytest.raises(ValueError, match="must be a torch module.*give `.model`"):
        checkpoint.load(tmp_path / "m", "model" if model is None else model)


def test_a_layer_without_a_shape_is_named(tmp_path):
    with pytest.raises(ValueError, match="'0.weight' cannot be saved"):
        checkpoint.save(nn.Sequential(nn.LazyLinear(4)), tmp_path / "m")
    checkpoint.save(nn.Sequential(nn.Linear(8, 4)), tmp_path / "m")
    with pytest.raises(ValueError, match=r"'0.weight'.*have no shape yet: run it once"):
        checkpoint.load(tmp_path / "m", nn.Sequential(nn.LazyLinear(4)))


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path):
    for read in (lambda p: checkpoint.load(p, nn.Linear(2, 2)), Calibration.load):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            read(tmp_path / "nowhere")
