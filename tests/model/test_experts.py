"""Fused experts: each matrix of each expert is a weight of its own."""

import pickle
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from lowrank.calibration import Batches, CalibratedNorms
from lowrank.calibration.collect import UNREACHED, collect
from lowrank.compression.compress import compress
from lowrank.decomposers import GPTQ, LoRA, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.export import checkpoint
from lowrank.measure import layer_macs, nbytes
from lowrank.model.opened import open_weights

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}
MODELS = {
    "concatenated": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4}),
    "narrow": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {"num_experts": 4, "moe_intermediate_size": 8, "head_dim": 8},
    ),
    # Its matrices are (in, out), its gates interleaved, and it adds biases.
    "transposed": ("GptOssForCausalLM", "GptOssConfig", {"num_local_experts": 4, "head_dim": 8}),
}
IDS = torch.arange(36).view(3, 12) % 37
EXPERTS = "model.layers.0.mlp.experts"
NAMES = [f"{EXPERTS}.{i}.{name}" for i in range(4) for name in ("gate_up_proj", "down_proj")]
WHERE = f"{EXPERTS}.*"

every_model = pytest.mark.parametrize("name", MODELS)


@cache
def dense(name, seed=0):
    model, config, settings = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = getattr(transformers, model)(getattr(transformers, config)(**SIZES, **settings))
    # Biases are zero before training, and weights small.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.linspace(-1, 1, parameter.numel()).sin().view_as(parameter))
    return made.eval()


@torch.no_grad()
def logits(model, ids=IDS):
    return model(ids).logits


@every_model
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_an_opened_model_gives_the_same_outputs_by_every_implementation(name, implementation):
    model = dense(name)
    opened = open_weights(model).model
    opened.set_experts_implementation(implementation)
    assert opened.config._experts_implementation == implementation
    torch.testing.assert_close(logits(opened), logits(model))
    assert torch.equal(logits(pickle.loads(pickle.dumps(opened))), logits(opened))
    stacked = opened.get_submodule(EXPERTS).gate_up_proj
    assert torch.equal(stacked, model.get_submodule(EXPERTS).gate_up_proj)


METHODS = {
    "low rank": TruncatedSVD(rank=2),
    "sparse": MagnitudePruning(0.5),
    "quantized": Quantization(4),
    "QLoRA": LoRA(rank=2, alpha=4, base=Quantization(4)),
}


@every_model
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_experts_are_compressed_saved_and_loaded(name, method, tmp_path):
    result = compress(dense(name), method, where=WHERE)
    assert [layer.name for layer in result.layers] == NAMES
    assert {layer.kernel for layer in result.layers} == {"multiplied out"}
    twin = open_weights(dense(name)).model
    written = compress(dense(name), method, where=WHERE).model
    assert torch.equal(logits(written), logits(result.model))
    for one in NAMES:
        matrix = result.model.get_submodule(one).factorization.to_dense()
        twin.get_submodule(one).weight = torch.nn.Parameter(matrix.detach())
    torch.testing.assert_close(logits(twin), logits(result.model))
    assert not torch.equal(logits(dense(name)), logits(result.model))
    checkpoint.save(result.model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m", dense(name, seed=1))
    assert torch.equal(logits(loaded), logits(result.model))
    content = (tmp_path / "m").read_bytes()
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == nbytes(result.model)


def routed(model):
    """What the dense module of experts is given: inputs (tokens, in), experts (tokens, k)."""
    found = []
    experts = model.get_submodule(EXPERTS)
    hook = experts.register_forward_pre_hook(lambda module, args: found.append(args))
    logits(model)
    hook.remove()
    return found[0]


@every_model
def test_an_expert_is_calibrated_on_the_tokens_routed_to_it(name):
    model = dense(name)
    experts = model.get_submodule(EXPERTS)
    x, chosen, _ = routed(model)
    found = collect(open_weights(model).model, NAMES, Batches([IDS]), full=True)
    for number in range(4):
        own = x[(chosen == number).any(dim=1)]
        rise, fall = (found[one] for one in NAMES[2 * number : 2 * number + 2])
        assert rise.count == fall.count == len(own) > 0
        torch.testing.assert_close(rise.columns.float(), own.T @ own / len(own))
        matrix = experts.gate_up_proj.detach()[number]
        matrix = matrix if experts.is_transposed else matrix.T
        inner = own @ matrix
        if experts.has_bias:
            inner = inner + experts.gate_up_proj_bias.detach()[number]
            gate, up = inner[:, ::2].clamp(max=7), inner[:, 1::2].clamp(-7, 7)
            inner = (up + 1) * gate * (1.702 * gate).sigmoid()
        else:
            gate, up = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * up
        torch.testing.assert_close(fall.columns.float(), inner.T @ inner / len(own))


class WithLoss(Batches):
    def loss(self, model, batch):
        return batch.run(model).logits.square().mean()


@every_model
@pytest.mark.parametrize("mode", ["one-shot", "sequential"])
def test_experts_are_compressed_in_the_norms_of_data(name, mode):
    norm = CalibratedNorms("full", mode=mode)
    result = compress(dense(name), GPTQ(3), where=WHERE, norm=norm, data=[IDS])
    assert [layer.norm for layer in result.layers] == ["full"] * 8 and not result.left
    if mode == "one-shot":
        by_loss = {"norm": CalibratedNorms("fisher"), "data": WithLoss([IDS])}
        result = compress(dense(name), TruncatedSVD(rank=2), where=WHERE, **by_loss)
        assert [layer.norm for layer in result.layers] == ["diagonal"] * 8


def test_an_expert_without_tokens_stays_as_it_is_and_is_listed():
    few = IDS[:1, :1]
    result = compress(dense("concatenated"), GPTQ(3), where=WHERE, norm="full", data=[few])
    assert len(result.layers) == 4 and len(result.left) == 4
    assert all(UNREACHED in why for _, why in result.left)
    for one, _ in result.left:
        number, name = one.split(".")[-2:]
        own = dense("concatenated").get_submodule(EXPERTS).get_parameter(name)[int(number)]
        assert torch.equal(result.model.get_submodule(one).weight, own)


@every_model
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_the_multiplications_of_the_experts_of_each_token_are_counted(name, implementation):
    model = dense(name)
    before = model.config._experts_implementation
    model.set_experts_implementation(implementation)
    inner, experts = (8 if name == "narrow" else 24), model.get_submodule(EXPERTS)
    counted = layer_macs(model, (IDS[:1],))[EXPERTS]
    model.set_experts_implementation(before)
    assert counted == 12 * 2 * 3 * 16 * inner
    assert experts.down_proj.numel() == 4 * 16 * inner


def test_adapters_of_experts_are_trained():
    model = compress(dense("concatenated"), LoRA(rank=2, alpha=4), where=WHERE).model.train()
    model(IDS).logits.square().sum().backward()
    trained = [p for n, p in model.named_parameters() if ".term." in n]
    assert len(trained) == 16 and all(p.grad is not None for p in trained)
