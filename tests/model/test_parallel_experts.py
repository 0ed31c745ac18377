"""Parallel linear maps in one tensor: each is a weight of its own."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowrank.calibration import Batches
from lowrank.calibration.collect import collect
from lowrank.compression.compress import compress
from lowrank.decomposers import GPTQ, Quantization, TruncatedSVD
from lowrank.export import checkpoint
from lowrank.measure import nbytes
from lowrank.model.dense import dense_model
from lowrank.model.opened import open_weights

IDS = torch.arange(36).view(3, 12) % 37
LAYER = "model.layers.0.mlp.output_linear"
WHERE = ["*put_linear.*"]


def jetmoe():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.JetMoeConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_key_value_heads=2,
        kv_channels=8,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    model = transformers.JetMoeForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.linspace(-1, 1, parameter.numel()).sin().view_as(parameter))
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def test_an_opened_model_gives_the_same_outputs():
    model = jetmoe()
    opened = open_weights(model).model
    assert torch.equal(logits(opened), logits(model))
    assert torch.equal(logits(pickle.loads(pickle.dumps(opened))), logits(model))
    assert torch.equal(opened.get_submodule(LAYER).weight, model.get_submodule(LAYER).weight)


@pytest.mark.parametrize("method", [TruncatedSVD(rank=2), Quantization(4)], ids=["svd", "codes"])
def test_experts_are_compressed_saved_and_loaded(method, tmp_path):
    result = compress(jetmoe(), method, where=WHERE)
    assert len(result.layers) == 16  # Four in each of two tensors, of attention and of the MLP.
    assert {layer.kernel for layer in result.layers} == {"multiplied out"}
    again = dense_model(result.model)
    assert type(again.get_submodule(LAYER)) is type(jetmoe().get_submodule(LAYER))
    torch.testing.assert_close(logits(again), logits(result.model))
    assert not torch.equal(logits(jetmoe()), logits(result.model))
    checkpoint.save(result.model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m", jetmoe())
    assert torch.equal(logits(loaded), logits(result.model))
    content = (tmp_path / "m").read_bytes()
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == nbytes(result.model)


def test_an_expert_is_calibrated_on_its_rows():
    model, seen = jetmoe(), []
    hook = model.get_submodule(LAYER).register_forward_pre_hook(lambda _, args: seen.append(args))
    logits(model)
    hook.remove()
    ((x, sizes),) = seen
    names = [f"{LAYER}.{number}" for number in range(4)]
    found = collect(open_weights(model).model, names, Batches([IDS]), full=True)
    for name, rows in zip(names, x.split(sizes), strict=True):
        assert found[name].count == len(rows) > 0
        torch.testing.assert_close(found[name].columns.float(), rows.T @ rows / len(rows))
    result = compress(model, GPTQ(3), where=WHERE, norm="full", data=[IDS])
    assert {layer.norm for layer in result.layers} == {"full"} and not result.left


class Parallel(nn.Module):
    """A stack of matrices that is called with rows and their counts."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5, 4))

    def forward(self, x, sizes):
        parts = zip(x.split(sizes), self.weight, strict=True)
        return torch.cat([F.linear(rows, matrix) for rows, matrix in parts])


class Doubled(Parallel):
    def forward(self, x, sizes):
        return 2 * super().forward(x, sizes)


class Transposed(Parallel):
    def forward(self, x, sizes):
        parts = zip(x.split(sizes), self.weight, strict=True)
        return torch.cat([rows @ matrix for rows, matrix in parts])


class Fails(Parallel):
    def forward(self, x, sizes):
        raise KeyError("odd")


def test_modules_that_compute_something_else_are_left():
    assert set(dict(open_weights(nn.Sequential(Parallel())).model.named_modules())) >= {
        "0.0",
        "0.2",
    }
    for kind in (Doubled, Transposed, Fails):
        model = nn.Sequential(kind())
        assert open_weights(model).model is model
    conv = nn.Sequential(nn.Conv1d(4, 5, 3, bias=False))
    assert open_weights(conv).model is conv
