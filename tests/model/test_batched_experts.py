"""Gated experts that take batches of equal size: each matrix of each is a weight of its own."""

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
EXPERTS = "model.layers.0.feed_forward.experts"
WHERE = f"{EXPERTS}.*"
NAMES = [f"{EXPERTS}.{i}.{name}" for i in range(4) for name in ("gate_up_proj", "down_proj")]


def llama4():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Llama4TextConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=8,
        intermediate_size_mlp=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        interleave_moe_layer_step=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.Llama4ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            values = 0.3 * torch.linspace(-1, 1, parameter.numel()).sin()
            parameter.copy_(values.view_as(parameter) + 0.1 * torch.randn(parameter.shape))
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def test_an_opened_model_gives_the_same_outputs():
    model = llama4()
    opened = open_weights(model).model
    assert torch.equal(logits(opened), logits(model))
    assert torch.equal(logits(pickle.loads(pickle.dumps(opened))), logits(model))
    for name in ("gate_up_proj", "down_proj"):
        own, other = (getattr(one.get_submodule(EXPERTS), name) for one in (opened, model))
        assert torch.equal(own, other)


@pytest.mark.parametrize("method", [TruncatedSVD(rank=2), Quantization(4)], ids=["svd", "codes"])
def test_experts_are_compressed_saved_and_loaded(method, tmp_path):
    result = compress(llama4(), method, where=WHERE)
    assert [layer.name for layer in result.layers] == NAMES
    again = dense_model(result.model)
    assert type(again.get_submodule(EXPERTS)) is type(llama4().get_submodule(EXPERTS))
    torch.testing.assert_close(logits(again), logits(result.model))
    assert not torch.equal(logits(llama4()), logits(result.model))
    checkpoint.save(result.model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m", llama4())
    assert torch.equal(logits(loaded), logits(result.model))
    content = (tmp_path / "m").read_bytes()
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == nbytes(result.model)


def test_an_expert_is_calibrated_on_the_tokens_routed_to_it():
    model, seen = llama4(), []
    experts = model.get_submodule(EXPERTS)
    hook = experts.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    logits(model)
    hook.remove()
    found = collect(open_weights(model).model, NAMES, Batches([IDS]), full=True)
    for number, rows in enumerate(seen[0].view(4, -1, 16)):
        routed = rows[rows.abs().sum(dim=1) > 0]
        rise, fall = (found[name] for name in NAMES[2 * number : 2 * number + 2])
        assert rise.count == fall.count == len(routed) < len(rows)
        torch.testing.assert_close(rise.columns.float(), routed.T @ routed / len(routed))
        gate, up = (routed @ experts.gate_up_proj[number].detach()).chunk(2, dim=-1)
        inner = up * F.silu(gate)
        torch.testing.assert_close(fall.columns.float(), inner.T @ inner / len(routed))
    result = compress(model, GPTQ(3), where=WHERE, norm="full", data=[IDS])
    assert {layer.norm for layer in result.layers} == {"full"} and not result.left


class Batched(nn.Module):
    """Experts of 6 inputs and 4 inner numbers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(3, 6, 8))
        self.second = nn.Parameter(torch.randn(3, 4, 6))
        self.width, self.act = 6, nn.SiLU()

    def gated(self, inner):
        gate, up = inner.chunk(2, dim=-1)
        return up * self.act(gate)

    def forward(self, x):
        inner = torch.bmm(x.view(3, -1, self.width), self.first)
        return torch.bmm(self.gated(inner), self.second).view(-1, self.width)


class Swapped(Batched):
    """The second half are the gates."""

    def gated(self, inner):
        up, gate = inner.chunk(2, dim=-1)
        return up * self.act(gate)


class Fails(Batched):
    def forward(self, x):
        raise KeyError("odd")


def test_modules_that_compute_something_else_are_left():
    opened = open_weights(nn.Sequential(Batched())).model
    assert {"0.0.first", "0.2.second"} <= {name for name, _ in opened.named_modules()}
    for kind in (Swapped, Fails):
        model = nn.Sequential(kind())
        assert open_weights(model).model is model
