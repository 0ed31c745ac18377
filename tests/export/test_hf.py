"""Folders of `transformers`: what is written, and what is refused."""

import json
import os

import pytest
import torch
from architectures import ARCHITECTURES
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from hf_models import MINILM, STORIES
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lowrank
from lowrank import DoRA, LoRA, Quantization
from lowrank.export.formats import format_named
from lowrank.export.formats.hf import own_code
from lowrank.export.formats.hf.compressed_tensors import (
    PackingScheme,
    packed_tensors,
    quantization_config,
    why_not,
)
from lowrank.export.formats.hf.remote import matrix_forms
from lowrank.factorizations import BlockGrid, Codebook, Quantized, Sparse
from lowrank.factorizations.packing import Layout

RECORD = {
    "method": "gptq",
    "task": "tinystories",
    "metrics": [{"name": "perplexity", "title": "perplexity\n(test split)"}],
    "dense": {"perplexity": 4.7144},
    "compressed": {"perplexity": 4.9},
    "ratios": {"compression_ratio": 3.5, "layers_bits_per_weight": 4.25},
    "norm": "full",
    "config": {"method": {"_target_": "lowrank.GPTQ", "bits": 4}, "task": {"split_seed": 0}},
}


def compressed():
    return lowrank.compress(ARCHITECTURES["Llama"].make(), Quantization(bits=8)).model


@given(
    bits=st.integers(2, 8),
    groups=st.sampled_from([4, "channel", "tensor"]),
    has_zero=st.booleans(),
    zeros=st.booleans(),
    dequantize_first=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    columns=st.sampled_from([4, 12, 36]),
    seed=st.integers(0, 9),
)
def test_the_library_reads_the_packed_codes_as_the_same_matrix(
    bits, groups, has_zero, zeros, dequantize_first, dtype, columns, seed
):
    draw = torch.Generator().manual_seed(seed)
    layout = Layout((5, columns), bits, groups)
    codes = torch.randint(0, 2**bits, layout.shape, generator=draw)
    scale = torch.randn(layout.count, generator=draw).to(dtype)
    zero = torch.randint(0, 2**bits, (layout.count,), generator=draw) if has_zero else None
    form = Quantized(layout, codes, scale, zero, dtype)
    assert not why_not(form)
    scheme = PackingScheme.of(form, zeros, dequantize_first)
    if scheme is None:
        assert has_zero and bits == 8 and not zeros
        return
    tensors = packed_tensors(form, scheme)
    assert sum(tensor.nbytes for tensor in tensors.values()) == scheme.nbytes(form)
    shape = torch.Size(tensors["weight_shape"])
    read = unpack_from_int32(tensors["weight_packed"], scheme.bits, shape)
    assert torch.equal(pack_to_int32(read, scheme.bits), tensors["weight_packed"])
    point = tensors.get("weight_zero_point")
    if point is not None:
        size = torch.Size((5, tensors["weight_scale"].shape[1]))
        point = unpack_from_int32(point, scheme.bits, size, packed_dim=0)
    arguments = QuantizationArgs(**scheme.to_json())
    dense = dequantize(read, tensors["weight_scale"], point, arguments)
    assert torch.equal(dense.to(dtype), form.to_dense())


@pytest.mark.parametrize(
    ("layout", "zero", "why"),
    [
        (Layout((4, 10), 4, 4), None, "groups of 4 do not divide its 10 inputs"),
        (Layout((4, 8), 1, 4), None, "no levels"),
        (Layout((4, 8), 4, 4), torch.full((8,), 1.5), "no integers"),
        (Layout((4, 8), 4, 4), torch.full((8,), 16.0), "no integers"),
    ],
)
def test_what_has_no_place_is_said(layout, zero, why):
    codes = torch.zeros(layout.shape, dtype=torch.int64)
    form = Quantized(layout, codes, torch.ones(layout.count), zero)
    assert why in why_not(form)


def test_expressions_name_no_other_layers():
    scheme = PackingScheme(4, None, True)
    names = ["a.0.q", "a.1.q", "a.2.q", "b.0.k", "b.1.k"]
    config = quantization_config(
        dict.fromkeys(["a.0.q", "a.2.q", "b.0.k", "b.1.k"], scheme), [], names
    )
    (group,) = config["config_groups"].values()
    assert group["targets"] == [r"re:a\.0\.q$", r"re:a\.2\.q$", r"re:b\.\d+\.k$"]


def test_a_card_says_what_the_record_says(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(RECORD))
    options = {"record": tmp_path / "record.json", "tokenizer": None, "licence": "mit"}
    lowrank.export_model(compressed(), "hf", tmp_path / "out", multiply_out=True, **options)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nlicense: mit\n")
    for text in ("`gptq`, 3.50 times", "4.25 bits", "| perplexity (test split) | 4.714 | 4.9 |"):
        assert text in card
    for text in ("- norm: full", "- method: bits=4", "pack-quantized, 8 bits"):
        assert text in card


def test_a_card_without_a_record_says_so(tmp_path):
    plan = lowrank.export_model(
        compressed(), "hf", tmp_path / "out", multiply_out=True, tokenizer=None
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "not measured" in card and "licence of the base is not known" in plan.describe()


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs the weights of stories260K")
@pytest.mark.parametrize("given", ["", STORIES, MINILM])
def test_the_tokenizer_goes_along(given, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dense = AutoModelForCausalLM.from_pretrained(STORIES)
    model = lowrank.compress(dense, Quantization(bits=8)).model
    lowrank.export_model(model, "hf", tmp_path, multiply_out=True, tokenizer=given)
    own = AutoTokenizer.from_pretrained(given or STORIES)
    assert own("Once upon a time") == AutoTokenizer.from_pretrained(tmp_path)("Once upon a time")
    assert "license: mit" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tokenizer": ""}, "does not say where its tokenizer is. Give tokenizer="),
        ({"tokenizer": 3}, "tokenizer=3 must be"),
        ({"tokenizer": "EMPTY"}, "no tokenizer or processor is in"),
        ({"shard_bytes": 0}, "shard_bytes=0 must be at least 1"),
        ({"licence": None}, "licence=None must be a name of the hub's"),
        ({"licence": "mit\n- x"}, "must be a name of the hub's, such as 'apache-2.0'"),
        ({"code": True, "dequantize": True}, "with code=True none is"),
        ({"record": "EMPTY/no"}, "no record of a measured point: the record lacks 'method'"),
        ({"model": nn.Linear(4, 4)}, "holds its models, and Linear is none"),
        ({"multiply_out": False}, "hf cannot hold"),
    ],
)
def test_what_cannot_be_written_is_refused_before(change, text, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "no").write_text("{}")
    given = {"model": compressed(), "tokenizer": None, "multiply_out": True} | change
    given = {
        name: value.replace("EMPTY", str(tmp_path / "empty")) if isinstance(value, str) else value
        for name, value in given.items()
    }
    with pytest.raises(ValueError, match=text):
        lowrank.export_model(format="hf", folder=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def shallower(model):
    model.model.layers = model.model.layers[:1]


def other_head(model):
    model.lm_head = nn.Sequential(model.lm_head, nn.Linear(40, 40))


def extended(model):
    model.extra = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (shallower, r"has \['model.layers.1.*num_hidden_layers"),
        (other_head, r"has \['lm_head.weight'\] too and has no \['lm_head.0.weight'"),
        (extended, r"has no \['extra.weight', 'extra.bias'\]"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"code": True}, {"format": "gguf"}])
def test_what_the_config_does_not_make_is_refused_before(options, change, text, tmp_path):
    """A reader would draw it at random, or leave it out."""
    model = ARCHITECTURES["Llama"].make()
    change(model)
    if "format" in options:
        pytest.importorskip("gguf")
        text = f"{text}|GGUF has no place for"
    with pytest.raises(ValueError, match=text):
        lowrank.export_model(
            model, **{"format": "hf", "folder": tmp_path / "out", "tokenizer": None} | options
        )
    assert not (tmp_path / "out").exists()


def test_a_part_that_a_class_does_without_is_said(tmp_path):
    from transformers import AutoModel, BertConfig, BertModel

    sizes = ARCHITECTURES["BERT"].settings
    model = BertModel(BertConfig(**sizes), add_pooling_layer=False).eval()
    plan = lowrank.export_model(model, "hf", tmp_path, tokenizer=None)
    assert "a reader draws ['pooler.dense.weight', 'pooler.dense.bias']" in plan.describe()
    ids = torch.arange(5)[None]
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids)[0], model(ids)[0])


def test_what_the_config_says_of_a_shallower_model_is_taken(tmp_path):
    from transformers import AutoModelForCausalLM

    model = ARCHITECTURES["Llama"].make()
    shallower(model)
    model.config.num_hidden_layers = 1
    lowrank.export_model(model, "hf", tmp_path, tokenizer=None)
    ids = torch.arange(5)[None]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_layer_with_a_norm_of_its_weight_needs_code(tmp_path):
    """Files of the library have the norm's parts, which the compressed weight is not made of."""
    from transformers import AutoModel, Wav2Vec2Config, Wav2Vec2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 24, "conv_dim": (8, 8), "conv_stride": (2, 2)}
    sizes |= {"conv_kernel": (3, 3), "num_conv_pos_embeddings": 8}
    sizes |= {"num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    dense = Wav2Vec2Model(Wav2Vec2Config(**sizes)).eval()
    model = lowrank.compress(dense, Quantization(bits=8)).model
    with pytest.raises(ValueError, match="parametrizations.weight.original0"):
        lowrank.plan_export(model, "hf", tokenizer=None)
    lowrank.export_model(model, "hf", tmp_path, tokenizer=None, code=True)
    loaded = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    x = torch.randn(2, 400)
    torch.testing.assert_close(loaded(x)[0], model(x)[0])


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs the weights of stories260K")
def test_a_tokenizer_is_found_in_the_mirror_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", str(STORIES.parents[2]))
    model = ARCHITECTURES["Llama"].make()
    lowrank.export_model(model, "hf", tmp_path, tokenizer="karpathy/stories260K")
    assert (tmp_path / "tokenizer_config.json").is_file()
    with pytest.raises(ValueError, match="has no models/none; .*on the command line --no-tok"):
        lowrank.plan_export(model, "hf", tokenizer="none")


def test_the_model_keeps_its_config(tmp_path):
    model = compressed()
    before = model.config.to_dict()
    lowrank.export_model(model, "hf", tmp_path, multiply_out=True, tokenizer=None)
    assert model.config.to_dict() == before
    with pytest.raises(ValueError, match="does not know factorizations"):
        model.save_pretrained(tmp_path)


def test_the_code_of_folders_has_the_forms_that_are_kept():
    assert matrix_forms.FORMS.keys() == own_code.HELD


@given(
    bits=st.integers(1, 8),
    groups=st.sampled_from([3, 4, "channel", "tensor"]),
    zero=st.sampled_from([None, "codes", "real"]),
    seed=st.integers(0, 9),
)
def test_the_code_of_folders_reads_codes_bit_for_bit(bits, groups, zero, seed):
    draw = torch.Generator().manual_seed(seed)
    layout = Layout((5, 7), bits, groups)
    codes = torch.randint(0, 2**bits, layout.shape, generator=draw)
    scale = torch.randn(layout.count, generator=draw).half()
    zeros = torch.randint(0, 2**bits, (layout.count,), generator=draw)
    real = torch.randn(layout.count, generator=draw)
    assert_same(Quantized(layout, codes, scale, {"codes": zeros, "real": real}.get(zero)))
    assert_same(Codebook(layout, codes, torch.randn(layout.count, 2**bits, generator=draw)))


@given(
    block=st.sampled_from([(1, 1), (2, 3), (1, 8), (7, 1)]),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 9),
)
def test_the_code_of_folders_reads_positions_bit_for_bit(block, share, seed):
    draw = torch.Generator().manual_seed(seed)
    grid = BlockGrid((7, 300), block)
    kept = torch.rand(grid.size, generator=draw) < share
    assert_same(Sparse.from_dense(torch.randn(7, 300, generator=draw), kept, block))


def assert_same(form):
    """The form, and what the code of folders makes of its description and tensors."""
    made = matrix_forms.form_of(own_code.described(form))
    made.load_state_dict(own_code.stored_tensors_of(form))
    assert torch.equal(made.matrix(), form.to_dense())


def test_code_needs_a_class_that_is_found(tmp_path):
    class Own(ARCHITECTURES["Llama"].make().__class__):
        pass

    model = lowrank.compress(Own(ARCHITECTURES["Llama"].make().config), Quantization(bits=8)).model
    with pytest.raises(ValueError, match="no Auto class of transformers makes a Own"):
        lowrank.export_model(model, "hf", tmp_path / "out", tokenizer=None, code=True)
    assert not (tmp_path / "out").exists()


def test_layers_packed_in_several_ways_are_not_multiplied_out_on_loading():
    methods = {"*.0.mlp.*": Quantization(bits=8), "*.1.mlp.*": Quantization(bits=4)}
    model = lowrank.compress(ARCHITECTURES["Llama"].make(), methods).model
    with pytest.raises(ValueError, match="is for layers packed alike.*these have 2"):
        lowrank.plan_export(model, "hf", tokenizer=None, dequantize=True)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("dense", "base_format='dense' is no format that PEFT loads a base from"),
        ("hf", "does not say where its tokenizer is"),
        ("zip", "format='zip' does not exist"),
        (format_named("hf", tokenizer=None, code=True), "PEFT knows none of the layers"),
    ],
)
def test_a_base_that_peft_does_not_load_is_refused_before(given, text, tmp_path):
    base = ARCHITECTURES["Llama"].make()
    model = lowrank.compress(base, LoRA(2, 4, base=Quantization(4)), where="*.0.mlp.*").model
    with pytest.raises(ValueError, match=text):
        lowrank.export_peft(model, tmp_path / "out", base, base_format=given)
    assert not (tmp_path / "out").exists()


def test_forms_that_the_code_has_not_are_named():
    model = lowrank.compress(ARCHITECTURES["Llama"].make(), DoRA(LoRA(2, 4)), "*.0.mlp.*").model
    plan = lowrank.plan_export(model, "hf", tokenizer=None, code=True)
    assert {layer.why_dense for layer in plan.layers} == {
        "the code in the folder has no NormalizedRows"
    }


def test_whoever_reads_the_folder_reads_its_files(tmp_path):
    old = os.umask(0o022)
    try:
        lowrank.export_model(
            compressed(), "hf", tmp_path / "out", multiply_out=True, tokenizer=None
        )
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}
