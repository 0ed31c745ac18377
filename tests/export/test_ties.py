"""Weights that are one tensor in a model, and those that its config ties, in folders of others."""

import pytest
import torch
from architectures import IDS, SIZES, TOKENS, Architecture
from torch import nn
from transformers import AutoModelForCausalLM

import lowrank
from lowrank import Quantization

WIDTHS = SIZES | TOKENS | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
METHODS = {"dense": {"*q_proj": Quantization(4)}, "codes": Quantization(4, group_size=32)}
SHARED = (
    r"\['model.layers.0.mlp.gate_proj.weight', .*up_proj.weight'\] are one tensor here, and sev"
)


def llama(**settings):
    return Architecture(
        "LlamaForCausalLM", "LlamaConfig", WIDTHS | settings, 16, set(), "lm_head"
    ).make()


def one_module():
    model = llama()
    model.model.layers[0].mlp.gate_proj = model.model.layers[0].mlp.up_proj
    return model


def one_weight():
    model = llama()
    model.model.layers[0].mlp.gate_proj.weight = model.model.layers[0].mlp.up_proj.weight
    return model


def one_memory():
    model = llama()
    numbers = model.model.layers[0].mlp.up_proj.weight.data
    model.model.layers[0].mlp.gate_proj.weight = nn.Parameter(numbers)
    return model


def tied_head():
    model = llama(tie_word_embeddings=False)
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def untied_head():
    model = llama(tie_word_embeddings=True)
    model.lm_head.weight = nn.Parameter(torch.randn(40, 32))
    return model


def small(make, method):
    return lowrank.compress(make(), METHODS[method]).model


HEAD = r"\['lm_head.weight', 'model.embed_tokens.weight'\]"
REFUSED = {
    one_module: SHARED,
    one_weight: SHARED,
    one_memory: SHARED,
    tied_head: f"{HEAD} are one tensor here, and several in a Llama.*tie_word_embeddings = True ",
    untied_head: f"{HEAD} are several here, and one in a Llama.* = False .* or tie them",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_a_folder_of_transformers_refuses_ties_that_its_config_does_not_say(make, method, tmp_path):
    if (make, method) == (one_memory, "codes"):
        pytest.skip("each of them has codes of its own")
    model = small(make, method)
    with pytest.raises(ValueError, match=REFUSED[make]):
        lowrank.export_model(model, "hf", tmp_path / "out", tokenizer=None, multiply_out=True)
    assert not list(tmp_path.iterdir())


def test_a_head_of_its_own_goes_out_once_the_config_says_so(tmp_path):
    model = small(untied_head, "codes")
    model.config.tie_word_embeddings = False
    lowrank.export_model(model, "hf", tmp_path / "out", tokenizer=None, multiply_out=True)
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("make", [one_module, one_weight, tied_head, untied_head])
@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_codes_that_modules_share_are_read_by_each_of_them(make, format, tmp_path):
    if format == "gguf":
        pytest.importorskip("gguf")
    model = small(make, "codes")
    options = {"code": True} if format == "hf" else {}
    plan = lowrank.export_model(model, format, tmp_path / "out", tokenizer=None, **options)
    reads = {"trust_remote_code": True} if format == "hf" else {"gguf_file": "model.gguf"}
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, **reads)
    with torch.no_grad():
        assert torch.equal(found.eval()(IDS).logits, model(IDS).logits)
    assert not plan.multiplied_out


def test_code_in_a_folder_does_not_drop_a_bias(tmp_path):
    model = llama()
    model.model.layers[0].mlp.up_proj.bias = nn.Parameter(torch.ones(64))
    model = lowrank.compress(model, METHODS["codes"]).model
    with pytest.raises(ValueError, match=r"has no \['model.layers.0.mlp.up_proj.bias'\]"):
        lowrank.export_model(model, "hf", tmp_path / "out", tokenizer=None, code=True)
