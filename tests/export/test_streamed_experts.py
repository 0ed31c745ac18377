"""Fused experts from disk to disk: each matrix is read by itself, whatever the files hold."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_streamed_blocks import NORM, batches
from test_streamed_statistics import check_same_but_for_the_request
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    JetMoeConfig,
    JetMoeForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

import lowrank
from lowrank import GPTQ, CalibratedNorms, Quantization, TruncatedSVD
from lowrank.calibration.collect import UNREACHED
from lowrank.export.checkpoint import opened_model
from lowrank.export.streamed.merged import MergedTensor

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 99,
}


def mixtral(folder):
    """Each matrix of each expert in a tensor of the files."""
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**SIZES)).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def gpt_oss(folder):
    """All experts in one tensor, each matrix transposed."""
    torch.manual_seed(0)
    config = GptOssConfig(**SIZES, head_dim=8)
    GptOssForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    return folder


def jetmoe(folder):
    """Parallel linear maps in one tensor."""
    torch.manual_seed(0)
    config = JetMoeConfig(**SIZES, kv_channels=8)
    JetMoeForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    return folder


def llama4(folder):
    """Experts that take batches of equal size, each matrix transposed."""
    torch.manual_seed(0)
    layers = {"interleave_moe_layer_step": 1, "intermediate_size_mlp": 32, "head_dim": 8}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = Llama4TextConfig(**SIZES | {"intermediate_size": 16}, **layers, **tokens)
    Llama4ForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    return folder


RTN, FOUR = Quantization(bits=4), GPTQ(bits=4, group_size=32)
ONE_SHOT = replace(NORM, mode="one-shot")
CASES = {
    "rounded": (mixtral, RTN, None, None),
    "low rank": (mixtral, TruncatedSVD(rank=8), "*.layers.*", None),
    "some experts": (mixtral, RTN, ["*.layers.0.*.experts.[12].*", "*q_proj"], None),
    "no expert": (mixtral, RTN, "*_proj", None),
    "transposed": (gpt_oss, RTN, "*.layers.*", None),
    "in sequence": (mixtral, FOUR, "*.layers.*", NORM),
    "in one shot": (mixtral, FOUR, "*.layers.*", ONE_SHOT),
    "parallel": (jetmoe, RTN, "*.layers.*", None),
    "parallel, in sequence": (jetmoe, FOUR, "*.layers.*", NORM),
    "batched": (llama4, RTN, "*.experts.*", None),
    "batched, in one shot": (llama4, FOUR, "*.experts.*", ONE_SHOT),
    "transposed, in sequence": (gpt_oss, FOUR, "*.experts.*", NORM),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_as_in_memory(case, tmp_path):
    make, method, where, norm = CASES[case]
    source, data = make(tmp_path / "dense"), None if norm is None else batches()
    ours = lowrank.compress_checkpoint(source, tmp_path / "small", method, where, norm, data)
    dense = AutoModelForCausalLM.from_pretrained(source)
    theirs = lowrank.compress(dense, method, where, norm=norm, data=data)
    lowrank.save(theirs.model, tmp_path / "m")
    with opened_model(tmp_path / "small") as found, opened_model(tmp_path / "m") as wanted:
        tensors, others = found.read()[0], wanted.read()[0]
        assert tensors.keys() == others.keys() and len(tensors) > 9
        assert not [name for name in tensors if not torch.equal(tensors[name], others[name])]
        assert all(found.header[n] == wanted.header[n] for n in ("layers", "same", "frozen"))
    assert ours.layers == theirs.layers and ours.left == theirs.left
    ids = torch.arange(9)[None]
    one, other = (lowrank.load(tmp_path / name)(ids).logits for name in ("small", "m"))
    assert torch.equal(one, other)


def test_matrices_of_experts_are_read_one_by_one(tmp_path, monkeypatch):
    def whole(tensor, shape, *dtypes):
        raise AssertionError(f"{tensor.name} is read as a whole")

    source = mixtral(tmp_path / "dense")
    monkeypatch.setattr(MergedTensor, "read", whole)
    result = lowrank.compress_checkpoint(source, tmp_path / "small", RTN, "*.experts.*")
    assert len(result.layers) == 2 * 4 * 2


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_rule_that_looks_at_the_shape_in_the_model_is_followed(is_transposed, tmp_path):
    torch.manual_seed(0)
    text = SIZES | {"moe_intermediate_size": 24, "num_experts": 4, "head_dim": 8}
    text["rope_parameters"] = {
        "mrope_section": [2, 1, 1],
        "rope_theta": 1e4,
        "rope_type": "default",
    }
    sizes = {"depth": 1, "num_heads": 2, "hidden_size": 16, "intermediate_size": 16}
    vision = sizes | {"out_hidden_size": 32, "deepstack_visual_indexes": [0], "patch_size": 4}
    model = Qwen3VLMoeForConditionalGeneration(
        Qwen3VLMoeConfig(text_config=text, vision_config=vision)
    )
    model.save_pretrained(tmp_path / "dense")
    if is_transposed:  # As the released ones are.
        (path,) = (tmp_path / "dense").glob("*.safetensors")
        tensors = load_file(path)
        for name in tensors:
            if ".experts." in name:
                tensors[name] = tensors[name].mT.contiguous()
        save_file(tensors, path, metadata={"format": "pt"})
    lowrank.compress_checkpoint(tmp_path / "dense", tmp_path / "small", RTN, "*.experts.*")
    lowrank.save(lowrank.compress(model, RTN, "*.experts.*").model, tmp_path / "m")
    with opened_model(tmp_path / "small") as found, opened_model(tmp_path / "m") as wanted:
        tensors, others = found.read()[0], wanted.read()[0]
        assert tensors.keys() == others.keys()
        assert not [name for name in tensors if not torch.equal(tensors[name], others[name])]


def test_two_tensors_of_one_name_are_not_taken_for_each_other(tmp_path):
    source, name = tmp_path / "dense", "layers.0.block_sparse_moe.gate.weight"
    MixtralForCausalLM(MixtralConfig(**SIZES)).save_pretrained(source)
    (path,) = source.glob("*.safetensors")
    tensors = load_file(path)
    tensors[name] = tensors[f"model.{name}"] + 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lack \[\] and have \['model.{name}'\] besides"):
        lowrank.compress_checkpoint(source, tmp_path / "small", RTN, "*_proj")


@pytest.mark.parametrize("make", [mixtral, gpt_oss, jetmoe, llama4])
def test_statistics_of_experts_are_those_in_memory(make, tmp_path):
    source = make(tmp_path / "dense")
    data = lowrank.calibrate_checkpoint(source, tmp_path / "kept", batches(), "*.experts.*")
    dense, norm = AutoModelForCausalLM.from_pretrained(source), CalibratedNorms("full")
    given = (norm, batches())
    theirs = lowrank.compress(dense, FOUR, "*.experts.*", norm=norm, data=data)
    again = lowrank.compress(dense, FOUR, "*.experts.*", norm=norm, data=batches())
    assert theirs.layers == again.layers
    for name, own in (("one", given), ("other", (norm, data))):
        lowrank.compress_checkpoint(source, tmp_path / name, FOUR, "*.experts.*", *own)
    check_same_but_for_the_request(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("mode", ["sequential", "one-shot"])
def test_experts_that_saw_few_tokens_are_named(mode, tmp_path):
    source, norm = mixtral(tmp_path / "dense"), replace(NORM, mode=mode)
    data = [torch.arange(40)[None]]
    result = lowrank.compress_checkpoint(source, tmp_path / "small", FOUR, "*.layers.*", norm, data)
    notes = {layer.name: "; ".join(layer.notes) for layer in result.layers}
    few = {name for name, note in notes.items() if "positions, fewer than" in note}
    kept = lowrank.calibrate_checkpoint(source, tmp_path / "kept", data).statistics
    assert few and all(".experts." in name for name in few)
    if mode == "one-shot":
        assert few == {n for n, e in kept.items() if n in notes and 0 < e.count < 32}
    left = {name for name, _ in result.left}
    assert all(why == f"layer '{name}': {UNREACHED}" for name, why in result.left)
    assert left | set(notes) == {name for name in kept if ".layers." in name}
