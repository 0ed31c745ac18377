"""Folders of `transformers`: what it computes with them, in a process of its own.

All folders are read in one such process, whose imports take seconds.
"""

import importlib.util
import json

import pytest
import torch
from forms import FORMS
from hf_models import MINILM, STORIES, Case, read_elsewhere, weights_bytes
from made_forms import AsRead

from lowrank import (
    AWQ,
    Chain,
    EntropyCodedQuantization,
    HalfPrecision,
    LoRA,
    LowRankPlusSparse,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None,
    reason="compressed-tensors is not installed",
)
BODY, BLOCK = "model.layers*", "model.layers.0.mlp*"
CASES = {
    **{f"Llama, {form}": Case("wide Llama", method, BLOCK) for form, method in FORMS.items()},
    "Llama, every linear layer": Case("wide Llama", Quantization(bits=4, group_size=64)),
    "Llama, several schemes": Case(
        "wide Llama",
        {
            "*.0.mlp.*": Quantization(bits=4, group_size=32),
            "*.1.mlp.*": Quantization(bits=8, group_size="tensor"),
            "*.self_attn.*": Quantization(bits=2, group_size="tensor", symmetric=False),
            "lm_head": Quantization(bits=6, symmetric=False),
        },
    ),
    "Llama, zero points of 8 bits": Case("wide Llama", Quantization(bits=8, symmetric=False), BODY),
    "Llama, one scheme of several with zero points": Case(
        "wide Llama",
        {"*.mlp.*": Quantization(bits=8, symmetric=False), "*.self_attn.*": Quantization(bits=8)},
        BODY,
    ),
    "Llama, bfloat16": Case(
        "wide Llama",
        Quantization(bits=4, group_size=32, symmetric=False, scale_dtype="bfloat16"),
        BODY,
        torch.bfloat16,
    ),
    "Llama, float16": Case("wide Llama", Quantization(bits=8), BODY, torch.float16),
    "Llama, rounded scales": Case(
        "wide Llama", Quantization(bits=4, group_size=32), BODY, torch.bfloat16
    ),
    "Llama, shards": Case(
        "wide Llama", Quantization(bits=4, group_size=32), options={"shard_bytes": 40_000}
    ),
    "GPT-2": Case("GPT-2", Quantization(bits=4)),
    "Qwen2, tied": Case("Qwen2", Quantization(bits=8)),
    "Mixtral": Case("Mixtral", Quantization(bits=4)),
    "T5": Case("T5", HalfPrecision()),
    "Whisper": Case("Whisper", Quantization(bits=8)),
    "ViT": Case("ViT", Quantization(bits=8)),
}
if STORIES.is_dir():
    CASES |= {
        "stories260K, 4 bits": Case("stories260K", Quantization(bits=4, group_size=64), BODY),
        "stories260K, low rank": Case("stories260K", TruncatedSVD(rank=8), BODY),
    }
CODE = {"code": True}
CASES |= {
    **{
        f"code: Llama, {form}": Case("wide Llama", m, BLOCK, options=CODE)
        for form, m in FORMS.items()
    },
    "code: Llama, table and head": Case("wide Llama", TruncatedSVD(rank=8), options=CODE),
    "code: Qwen2, tied low rank": Case("Qwen2", TruncatedSVD(rank=4), options=CODE),
    "code: Qwen2, tied codes": Case("Qwen2", Quantization(bits=4), options=CODE),
    "code: GPT-2, low rank": Case("GPT-2", TruncatedSVD(rank=4), options=CODE),
    "code: T5, low rank": Case("T5", TruncatedSVD(rank=4), options=CODE),
    "code: T5, entropy coded": Case(
        "T5", EntropyCodedQuantization(bits=4), "encoder.block.0.layer.1*", options=CODE
    ),
    "code: Whisper, low rank": Case("Whisper", TruncatedSVD(rank=4), options=CODE),
    "code: Whisper, codes": Case("Whisper", Quantization(bits=4), options=CODE),
    "code: ViT, low rank": Case("ViT", TruncatedSVD(rank=4), options=CODE),
    "code: ViT, sparse": Case("ViT", MagnitudePruning(0.9), options=CODE),
    "code: Mixtral, low rank": Case("Mixtral", TruncatedSVD(rank=8), options=CODE),
    "code: Llama, bfloat16": Case(
        "wide Llama",
        Chain([MagnitudePruning(0.5), Quantization(bits=4)]),
        BODY,
        torch.bfloat16,
        options=CODE,
    ),
    "code: Llama, AWQ": Case("wide Llama", AWQ(bits=4, group_size=32), BODY, options=CODE),
}
if MINILM.is_dir():
    CASES["code: MiniLM, low rank + sparse"] = Case(
        "MiniLM", LowRankPlusSparse(rank=8, sparsity=0.9, iterations=2), "*.0.*", options=CODE
    )
ADAPTED = {
    f"PEFT over 4 bits{name}": Case(
        "wide Llama",
        LoRA(4, 8, base=Quantization(bits=4, group_size=32, symmetric=name == "")),
        BODY,
        dtype,
        is_adapter=True,
    )
    for name, dtype in {"": torch.float32, ", zero points": torch.float32}.items()
}
CASES |= ADAPTED
# Forms that hold W as one matrix, which all readers multiply alike.
ONE_MATRIX = [
    name
    for name in CASES
    if not any(w in name for w in ("low rank", "adapter", "product of", "rounded"))
]
KEPT = {
    "dense",
    "half precision",
    "quantized, 8 bits per row",
    "quantized, 4 bits per row",
    "quantized, 4 bits, groups of 32",
    "quantized, 4 bits, groups of 32, zero points",
    "quantized, 3 bits, groups of 32",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    read_elsewhere(CASES, tmp_path_factory.mktemp("hf"))
    return CASES


@pytest.mark.parametrize("name", ONE_MATRIX)
def test_transformers_computes_the_same_bit_for_bit(cases, name):
    case = cases[name]
    assert not case.error
    for what, wanted in case.wanted.items():
        assert torch.equal(case.found[what], wanted), what


@pytest.mark.parametrize("name", [name for name in CASES if name not in ONE_MATRIX])
def test_transformers_computes_the_same_but_for_rounding(cases, name):
    case = cases[name]
    assert not case.error
    # Rounding of one dtype through some 20 products; bfloat16 scales are rounded themselves.
    near = 100 * torch.finfo(case.dtype).eps
    got, wanted = case.found["outputs"], case.wanted["outputs"]
    assert float((got - wanted).abs().max() / wanted.abs().max()) < near


@pytest.mark.parametrize("name", CASES)
def test_files_weigh_what_the_plan_says(cases, name):
    assert weights_bytes(cases[name].folder) == cases[name].plan.nbytes


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_kept_or_multiplied_out(cases, form):
    plan = cases[f"Llama, {form}"].plan
    assert len(plan.layers) == 3
    for layer in plan.layers:
        # Where it is smaller without a low rank, the form has none.
        is_kept = form in KEPT or layer.form.startswith("Quantized")
        assert bool(layer.why_dense) != is_kept


@pytest.mark.parametrize("form", [n for n, m in FORMS.items() if not isinstance(m, AsRead)])
def test_code_in_the_folder_keeps_all_forms_of_methods(cases, form):
    case = cases[f"code: Llama, {form}"]
    assert len(case.plan.layers) == 3 and not case.plan.multiplied_out
    wanted = "Linear" if form == "dense" else "CompressedLinear"
    assert case.names["model.layers.0.mlp.up_proj"] == wanted


@pytest.mark.parametrize("name", ADAPTED)
def test_a_packed_base_goes_with_its_adapter(cases, name):
    plan = cases[name].plan
    assert len(plan.layers) == 14 and not plan.multiplied_out


def test_all_linear_layers_of_fitting_widths_are_packed(cases):
    plan = cases["Llama, every linear layer"].plan
    assert [layer.name for layer in plan.multiplied_out] == ["model.embed_tokens"]
    assert len(plan.layers) == 16


def test_a_kind_of_layer_is_named_by_one_expression(cases):
    config = json.loads((cases["Llama, several schemes"].folder / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"].values()
    targets = [target for group in groups for target in group["targets"]]
    assert r"re:model\.layers\.\d+\.self_attn\.q_proj$" in targets
    assert r"re:model\.layers\.0\.mlp\.up_proj$" in targets


def test_zero_points_of_8_bits_need_one_scheme(cases):
    assert not cases["Llama, zero points of 8 bits"].plan.multiplied_out
    plan = cases["Llama, one scheme of several with zero points"].plan
    assert {layer.name.rpartition(".")[2] for layer in plan.multiplied_out} == {
        *("gate_proj", "up_proj", "down_proj")
    }


def test_large_weights_are_cut_into_shards(cases):
    folder = cases["Llama, shards"].folder
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 1 and all((folder / file).stat().st_size < 50_000 for file in files)


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs the weights of stories260K")
def test_groups_that_divide_no_row_are_named_beforehand(cases):
    lost = cases["stories260K, 4 bits"].plan.multiplied_out
    assert {layer.name.rpartition(".")[2] for layer in lost} == {"down_proj"}
    assert {layer.why_dense for layer in lost} == {"groups of 64 do not divide its 172 inputs"}
