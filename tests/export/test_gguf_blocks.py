"""The blocks of GGUF against the reader of the `gguf` package, and what it does not hold."""

import gguf
import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, GROUPED, TOKENS, Architecture
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast

import lowrank
from lowrank import Quantization, TruncatedSVD
from lowrank.export.formats.gguf_blocks import in_blocks, with_own_minimum
from lowrank.factorizations import Quantized, ScaledLevels
from lowrank.factorizations.packing import Layout
from lowrank.reading.gguf_blocks import BLOCK_TYPES

WIDE = GROUPED | TOKENS | {"hidden_size": 64, "num_hidden_layers": 1}
LLAMA = Architecture("LlamaForCausalLM", "LlamaConfig", WIDE, 9, set(), "")


def read(blocks):
    """The matrix that the `gguf` package reads."""
    return torch.from_numpy(
        gguf.dequantize(blocks.to_bytes(), gguf.GGMLQuantizationType[blocks.type.name])
    )


@st.composite
def quantized(draw):
    """Matrices whose scales are numbers of float16, half of them of few digits."""
    bits = draw(st.integers(1, 8))
    size = draw(st.sampled_from([32, 64, 96, "channel", "tensor"]))
    layout = Layout((draw(st.integers(1, 3)), 32 * draw(st.integers(1, 3))), bits, size)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    least, most = sorted(draw(st.tuples(*2 * [st.integers(0, 2**bits - 1)])))
    codes = torch.randint(least, most + 1, layout.shape, generator=generator)
    scale = torch.randn(layout.count, generator=generator)
    if draw(st.booleans()):
        scale = scale.sign() * 2.0 ** torch.randint(-6, 3, scale.shape, generator=generator)
    zero = draw(st.sampled_from(["none", "integer", "real"]))
    zeros = {
        "none": None,
        "integer": torch.randint(0, 2**bits, (layout.count,), generator=generator).byte(),
        "real": torch.randint(-40, 40, (layout.count,), generator=generator) / 4,
    }
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    return Quantized(layout, codes, scale.half(), zeros[zero], dtype)


@given(quantized())
def test_blocks_are_read_as_the_same_matrix(form):
    blocks = in_blocks(form)
    if isinstance(blocks, str):
        assert "do not reach so far" in blocks and form.zero is not None
        return
    assert torch.equal(read(blocks).to(form.dtype), form.to_dense())
    rows, columns = form.shape
    assert blocks.to_bytes().nbytes == rows * columns // 32 * blocks.type.nbytes


def test_blocks_are_as_long_as_the_gguf_package_says():
    for kind in BLOCK_TYPES:
        size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.name]]
        assert size == (32, kind.nbytes)


@pytest.mark.parametrize(
    ("bits", "zero", "expected"),
    [(4, None, "Q4_0"), (4, 3, "Q4_1"), (5, None, "Q5_0"), (5, 3, "Q5_1"), (8, None, "Q8_0")],
)
def test_each_type_of_blocks_is_the_smallest_for_some_matrix(bits, zero, expected):
    layout = Layout((2, 64), bits, 32)
    codes = torch.arange(128).view(2, 64) % 2**bits
    zeros = None if zero is None else torch.full((4,), zero, dtype=torch.uint8)
    blocks = in_blocks(Quantized(layout, codes, torch.full((4,), 0.25).half(), zeros))
    assert not isinstance(blocks, str) and blocks.type.name == expected


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_own_levels_are_as_near_as_those_of_the_gguf_package(bits):
    """Its own rounding of the same weights, at the same bytes, is no better."""
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    blocks = in_blocks(Quantization(bits, group_size=32).decompose(weight))
    assert not isinstance(blocks, str)
    kind = gguf.GGMLQuantizationType[blocks.type.name]
    theirs = torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind))
    assert (read(blocks) - weight).norm() <= 1.01 * (theirs - weight).norm()


@pytest.mark.parametrize(
    ("layout", "scale", "zero", "text"),
    [
        (Layout((2, 48), 4, 48), torch.float16, None, "do not divide rows of 48"),
        (Layout((2, 64), 4, 16), torch.float16, None, "do not lie within groups of 16"),
        (Layout((2, 64), 4, 48), torch.float16, None, "do not lie within groups of 48"),
        (Layout((2, 64), 4, 32), torch.float32, None, "no number of its float16"),
        (Layout((2, 64), 8, 32), torch.float16, 0, "do not reach so far"),
    ],
)
def test_what_does_not_fit_is_said(layout, scale, zero, text):
    codes = torch.full(layout.shape, 2**layout.bits - 1)
    zeros = None if zero is None else torch.zeros(layout.count, dtype=torch.uint8)
    form = Quantized(layout, codes, torch.full((layout.count,), 0.3).to(scale), zeros)
    assert text in in_blocks(form)


@pytest.mark.parametrize(("bits", "expected"), [(2, "Q4_1"), (4, "Q4_1"), (5, "Q5_1")])
def test_levels_with_a_minimum_are_blocks_of_the_same_numbers(bits, expected):
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**bits, (3, 64), generator=draw)
    scale, low = (torch.randn(6, generator=draw).half() for _ in range(2))
    form = ScaledLevels(Layout((3, 64), bits, 32), codes, scale, None, low)
    blocks = with_own_minimum(form)
    assert blocks.type.name == expected and torch.equal(read(blocks), form.to_dense())


@pytest.mark.parametrize(
    ("bits", "size", "change", "text"),
    [
        (6, 32, {}, "no codes of 6 bits"),
        (4, 64, {}, "no blocks of 32"),
        (4, 32, {"minimum": torch.ones(1)}, "no blocks of 32"),
        (4, 32, {"minimum": None}, "have whole numbers for levels"),
        (4, 32, {"levels": torch.ones(16)}, "have whole numbers for levels"),
        (4, 32, {"scale": torch.full((4,), 0.3)}, "no number of its float16"),
    ],
)
def test_levels_that_are_no_blocks_are_said(bits, size, change, text):
    layout = Layout((2, 64), bits, size)
    parts = {"scale": torch.ones(layout.count), "minimum": torch.ones(layout.count)} | change
    form = ScaledLevels(layout, torch.zeros(2, 64, dtype=torch.uint8), **parts)
    assert text in with_own_minimum(form)


def vocabulary(*merges, byte_fallback=False):
    tokens = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}
    model = models.BPE(tokens, list(merges), byte_fallback=byte_fallback)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))


def saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return str(folder)


def changed(name, value):
    def change(model):
        setattr(model.config, name, value)

    return change


def extended(model):
    model.model.layers[0].mlp.extra = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("make", "change", "options", "text"),
    [
        ("Mistral", None, {}, r"of \['LlamaForCausalLM', 'Qwen2ForCausalLM'\].* a MistralFor"),
        ("GPT-2", None, {}, "a GPT2LMHeadModel"),
        ("Llama", changed("attention_bias", True), {}, "attention_bias"),
        ("Llama", changed("hidden_act", "gelu"), {}, "'hidden_act': 'gelu'"),
        (
            *("Llama", changed("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4})),
            *({}, "'rope_type': 'yarn'"),
        ),
        ("Qwen2", changed("use_sliding_window", True), {}, "use_sliding_window"),
        ("Llama", extended, {}, r"no place for \['model.layers.0.mlp.extra"),
        ("Llama", None, {"tokenizer": ""}, "does not say where its tokenizer is"),
        ("Llama", None, {"tokenizer": "/nowhere"}, "tokenizer=None"),
        ("Llama", None, {"tokenizer": vocabulary()}, "byte-level BPE that splits"),
        (
            *("Llama", None),
            {"tokenizer": vocabulary(("a", "b"), byte_fallback=True)},
            "no vocabulary of sentencepiece",
        ),
        ("Llama", None, {"dtype": "int8"}, "dtype='int8'"),
        ("Llama", None, {"tokenizer": 3}, "tokenizer=3"),
    ],
)
def test_what_gguf_does_not_hold_is_refused_before_anything_is_written(
    make, change, options, text, tmp_path
):
    model = ARCHITECTURES[make].make()
    if change is not None:
        change(model)
    for export in (lowrank.plan_export, lowrank.export_model):
        where = {} if export is lowrank.plan_export else {"folder": tmp_path / "out"}
        given = {"tokenizer": None} | options
        if isinstance(given["tokenizer"], PreTrainedTokenizerFast):
            given["tokenizer"] = saved(given["tokenizer"], tmp_path / "tokenizer")
        with pytest.raises(ValueError, match=text):
            export(model, format="gguf", **where, **given)
    assert not (tmp_path / "out").exists()


def test_more_tokens_than_rows_are_refused(tmp_path):
    model = ARCHITECTURES["Llama"].make()
    model.config.vocab_size = 4
    tokenizer = vocabulary(("a", "b"), ("ab", "c"), byte_fallback=True)
    with pytest.raises(ValueError, match="tokens up to 4, and the model 4"):
        lowrank.plan_export(model, "gguf", tokenizer=saved(tokenizer, tmp_path))


def test_numbers_beyond_float16_are_refused_by_name_and_nothing_is_left(tmp_path):
    model = ARCHITECTURES["Llama"].make()
    model.lm_head.weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"output.weight: 1 of .* beyond torch.float16.*bfloat16"):
        lowrank.export_model(model, "gguf", tmp_path / "out", tokenizer=None)
    assert not list(tmp_path.iterdir())
    lowrank.export_model(model, "gguf", tmp_path / "out", tokenizer=None, dtype="bfloat16")


def test_layers_are_multiplied_out_with_leave_only(tmp_path):
    model = lowrank.compress(LLAMA.make(), TruncatedSVD(rank=2)).model
    with pytest.raises(ValueError, match="because it has no such form"):
        lowrank.export_model(model, "gguf", tmp_path / "out", tokenizer=None)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_shares_its_codes_with_another_is_stored_twice(tmp_path):
    model = LLAMA.make()
    attention = model.model.layers[0].self_attn
    attention.v_proj.weight = attention.k_proj.weight
    small = lowrank.compress(model, Quantization(4, 32)).model
    plan = lowrank.export_model(small, "gguf", tmp_path / "out", tokenizer=None, multiply_out=True)
    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert sum(tensor.n_bytes for tensor in tensors.values()) == plan.nbytes
    key, value = tensors["blk.0.attn_k.weight"], tensors["blk.0.attn_v.weight"]
    assert key.tensor_type.name == value.tensor_type.name == "Q4_0"
    # The rows of keys are turned.
    assert not np.array_equal(key.data, value.data)
    assert np.array_equal(np.sort(key.data, axis=0), np.sort(value.data, axis=0))
