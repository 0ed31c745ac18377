"""Folders of PEFT, as this library writes and reads them."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from architectures import ARCHITECTURES, dense, logits
from hypothesis import given
from hypothesis import strategies as st
from made_networks import trained
from safetensors.torch import load_file, save_file
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import DoRA, LoRA, Quantization, TruncatedSVD, VeRA
from lowrank.export import checkpoint
from lowrank.export.peft import export_peft, load_peft
from lowrank.export.peft.kinds import DIAGONAL_KINDS, KINDS, READ_KINDS
from lowrank.export.peft.layer import AdaptedLayer
from lowrank.export.peft.matching import (
    compiled,
    exactly,
    number_of,
    targeted,
    targets_for,
    value_of,
)
from lowrank.export.peft.types import TYPES
from lowrank.factorizations import Dense, Product, Sum
from lowrank.factorizations.adapted import LowRankTerm
from lowrank.files.atomic import replacing
from lowrank.model.sites import replace_module
from lowrank.recovery import compress_adapters, merge_adapters

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WORDS = st.text("ab.+($", min_size=1, max_size=3).filter(lambda word: word[0] + word[-1] != "..")
NAMES = st.lists(WORDS, min_size=1, max_size=8, unique=True)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).eval()


def adapted(method=None, model=None, where=None) -> nn.Module:
    model = network() if model is None else model
    return trained(compress(model, method or LoRA(2, 4), where=where).model).eval()


@given(NAMES, st.data())
def test_targets_mean_exactly_the_modules_that_were_wanted(names, data):
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    assert set(targeted(targets_for(wanted, names), names)) == set(wanted)


@given(NAMES)
def test_patterns_mean_one_module_each(names):
    patterns = compiled({exactly(name): place for place, name in enumerate(names)})
    assert [value_of(patterns, name, None) for name in names] == list(range(len(names)))
    assert value_of(patterns, f"x.{names[0]}", None) is None or f"x.{names[0]}" in names


@given(st.floats(1e-6, 1e6), st.integers(1, 600), st.booleans())
def test_alpha_gives_the_scale_to_the_bit(alpha, rank, rslora):
    share = math.sqrt(rank) if rslora else rank
    term = LowRankTerm(torch.zeros(600, rank), torch.zeros(rank, 600), alpha / share)
    layer = AdaptedLayer("", nn.Identity(), KINDS["linear"], term, torch.zeros(600, 600), False)
    assert layer.alpha(rslora) / share == term.scale
    whole = replace(layer, term=replace(term, scale=round(alpha) / share))
    assert isinstance(whole.alpha(rslora), int)


@given(st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 2))
def test_factors_come_back_to_the_bit_from_every_layout(groups, rank, width):
    modules = {
        **{"linear": None, "embedding": None, "conv1d": nn.Conv1d(4, 8, 6, groups=groups)},
        "conv2d": nn.Conv2d(4, 8, (3, 2), groups=groups),
        "conv3d": nn.Conv3d(4, 8, (3, 1, 2), groups=groups),
        "attention": None,
    }
    assert modules.keys() == READ_KINDS.keys() > DIAGONAL_KINDS.keys()
    for word, kind in [*READ_KINDS.items(), *DIAGONAL_KINDS.items()]:
        module = modules[word]
        inner = 6 * 4 // groups if module else 5 * width
        left, right = torch.randn(8, rank), torch.randn(rank, inner)
        first, second = kind.factors(module, kind.tensors(module, left, right))
        assert torch.equal(first, left) and torch.equal(second, right)


@pytest.mark.parametrize(
    "name, where",
    [("BERT, masked", None), ("GPT-2", "*.c_*"), ("ViT", "*_proj")],
)
def test_what_is_read_is_written_again_to_the_bit(name, where, tmp_path):
    base = dense(name)
    model = adapted(LoRA(2, 3, dropout=0.25), base, where=where)
    export_peft(model, tmp_path / "first", base)
    loaded = load_peft(base, tmp_path / "first")
    assert torch.equal(logits(loaded, name), logits(model, name))
    export_peft(loaded, tmp_path / "second", base)
    for file in (CONFIG, WEIGHTS):
        first, second = (tmp_path / folder / file for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_what_the_folder_holds_is_trainable_and_nothing_else(tmp_path):
    base = network()
    model = compress(base, LoRA(2, 4, dropout=0.5), where="0").model
    model.requires_grad_(True)[0].factorization.terms[0].requires_grad_(False)
    trained(model.requires_grad_(True))[0].factorization.terms[0].requires_grad_(False)
    model[0].factorization.terms[0].weight.data.copy_(base[0].weight)
    report = export_peft(model, tmp_path, base)
    assert report.saved == ("1", "3") and report.base is None
    assert json.loads((tmp_path / CONFIG).read_text())["bias"] == "lora_only"
    loaded = load_peft(base, tmp_path)
    trainable = {name for name, p in loaded.named_parameters() if p.requires_grad}
    form = "0.factorization.terms.1.term.factors"
    adapter = {f"{form}.{side}.weight" for side in "01"}
    assert trainable == adapter | {"0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}
    assert loaded[0].factorization.terms[1].dropout == 0.5
    x = torch.randn(5, 6)
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x))


def test_tied_modules_that_are_saved_whole_stay_tied_while_they_are_equal(tmp_path):
    base = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False))
    base[2].weight = base[0].weight
    model = compress(base, LoRA(2, 4), where="1").model
    nn.init.normal_(trained(model)[0].weight)
    assert export_peft(model, tmp_path, base).saved == ("0", "2")
    x = torch.arange(6)
    loaded = load_peft(base, tmp_path)
    assert loaded[0].weight is loaded[2].weight
    torch.testing.assert_close(loaded(x), model(x))
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["base_model.model.2.weight"] += 1
    save_file(tensors, tmp_path / WEIGHTS)
    parted = load_peft(base, tmp_path)
    assert torch.equal(parted[0].weight, loaded[0].weight)
    assert torch.equal(parted[2].weight, loaded[2].weight + 1)
    assert parted[2].weight.requires_grad


def test_all_biases_are_read_and_trainable(tmp_path):
    base = network()
    export_peft(compress(base, LoRA(2, 4)).model, tmp_path, base)
    config, tensors = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(config | {"bias": "all"}))
    for name, rows in (("0.base_layer", 8), ("1", 8), ("3.base_layer", 4)):
        tensors[f"base_model.model.{name}.bias"] = torch.randn(rows)
    save_file(tensors, tmp_path / WEIGHTS)
    loaded = load_peft(base, tmp_path)
    for layer, name in ((0, "0.base_layer"), (1, "1"), (3, "3.base_layer")):
        assert torch.equal(loaded[layer].bias, tensors[f"base_model.model.{name}.bias"])
        assert loaded[layer].bias.requires_grad
    assert not loaded[1].weight.requires_grad


def test_what_peft_writes_beside_a_saved_module_is_not_read(tmp_path):
    base = network()
    report = export_peft(adapted(where="0"), tmp_path, base)
    assert "3" in report.saved
    config, tensors = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(config | {"bias": "all"}))
    expected = load_peft(base, tmp_path)
    for part in ("original_module", "modules_to_save"):
        unused = torch.full((4,), float("nan")).to(torch.float8_e4m3fn)
        tensors[f"base_model.model.3.{part}.bias"] = unused
    save_file(tensors, tmp_path / WEIGHTS)
    found = load_peft(base, tmp_path)
    assert torch.equal(found(torch.ones(1, 6)), expected(torch.ones(1, 6)))


def test_the_scale_of_adalora_is_by_the_rank_from_before_the_masks():
    scale = TYPES["ADALORA"].scale
    assert scale(5.0, 3, 4, True) == pytest.approx(5 / (4 + 1e-5), rel=1e-7)
    assert scale(-1.0, 3, 4, False) == pytest.approx(3 / (4 + 1e-5), rel=1e-7)


def test_numbers_that_a_pattern_of_stacks_does_not_hold_are_none():
    assert number_of("model.layers.3.up", ["model|layers"]) is None
    assert number_of("model.layers.3.up", ["layers"]) == 3


def test_a_pattern_that_does_not_match_the_name_that_it_is_means_that_name():
    assert value_of(compiled({"a+b": 3}), "a+b", 1) == 3
    assert value_of(compiled({"a+b": 3}), "x.a+b", 1) == 1


def test_scales_and_lengths_are_trainable_and_factors_that_layers_share_are_one(tmp_path):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)).eval()
    model = adapted(VeRA(3, dropout=0.5), base)
    report = export_peft(model, tmp_path / "vera", base)
    # Less the biases, and the first rows of left once more for the layer of 5 outputs.
    assert report.model_bytes == report.nbytes - 4 * (8 + 8 + 5) + 4 * 5 * 3
    assert report.kind == "VERA"
    loaded = load_peft(base, tmp_path / "vera")
    frozen = [layer.factorization.terms[1].term.factors[1].term.weight for layer in loaded]
    assert frozen[0] is frozen[1] is frozen[2] and not frozen[0].requires_grad
    trainable = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert len(trainable) == 9 and all(n.endswith(("scale", "bias")) for n in trainable)
    torch.testing.assert_close(loaded(torch.ones(1, 8)), model(torch.ones(1, 8)))

    directions = adapted(DoRA(LoRA(2, 4)), base, where="1")
    assert export_peft(directions, tmp_path / "dora", base).kind == "LORA"
    loaded = load_peft(base, tmp_path / "dora")
    assert loaded[1].factorization.lengths.requires_grad
    torch.testing.assert_close(loaded(torch.ones(1, 8)), directions(torch.ones(1, 8)))


def test_factors_that_are_no_parts_of_one_another_are_written_as_lora(tmp_path):
    base = network()
    model = adapted({"0": VeRA(3, seed=0), "3": VeRA(3, seed=1)}, base)
    report = export_peft(model, tmp_path, base)
    assert report.kind == "LORA" and set(report.ranks.values()) == {3}
    x = torch.ones(1, 6)
    torch.testing.assert_close(load_peft(base, tmp_path)(x), model(x))


def test_codes_of_an_adapter_are_written_as_numbers(tmp_path):
    base, model = network(), adapted()
    compress_adapters(model, rank=1, decomposer=Quantization(8))
    report = export_peft(model, tmp_path, base)
    assert set(report.ranks.values()) == {1} and report.model_bytes < report.nbytes
    x = torch.ones(1, 6)
    torch.testing.assert_close(load_peft(base, tmp_path)(x), model(x))


def test_a_second_adapter_stands_beside_the_first(tmp_path):
    base = network()
    export_peft(adapted(), tmp_path, base)
    once = load_peft(base, tmp_path)
    x, content = torch.ones(1, 6), (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content.replace(b'"lowrank"', b'"unknown"'))
    twice = load_peft(once, tmp_path)
    merge_adapters(twice)
    expected = once[0].factorization.to_dense() * 2 - base[0].weight
    torch.testing.assert_close(twice[0].weight, expected)
    assert twice(x).isfinite().all()


def test_a_model_that_is_read_is_not_saved_in_ways_that_do_not_know_its_forms(tmp_path):
    base = dense("Llama")
    export_peft(adapted(None, base, where="lm_head"), tmp_path, base)
    with pytest.raises(ValueError, match="does not know factorizations"):
        load_peft(base, tmp_path).save_pretrained(tmp_path / "other")


def test_a_quantized_base_is_written_beside_and_read_back_onto_the_codes(tmp_path):
    base = network()
    codes, model = compress(base, Quantization(3)).model.eval(), network()
    for layer, coded in ((model[0], codes[0]), (model[3], codes[3])):
        rest = layer.weight.detach() - coded.factorization.to_dense()
        factors = TruncatedSVD(2).decompose(rest).factors
        product = Product(*(Quantization(4).decompose(one.weight.detach()) for one in factors))
        model = replace_module(model, layer, copy.deepcopy(coded))
        model.get_submodule("0" if layer.in_features == 6 else "3").factorization = Sum(
            coded.factorization, product
        )
    report = export_peft(model, tmp_path / "f", base)
    assert report.base == tmp_path / "f" / "base" and report.base_bytes > 0
    assert report.model_bytes < report.nbytes  # Four bits a number, and 32.
    written = network()
    written.load_state_dict(load_file(report.base / "model.safetensors"))
    x = torch.randn(5, 6)
    torch.testing.assert_close(load_peft(written, tmp_path / "f")(x), model(x))
    onto = load_peft(codes, tmp_path / "f")
    torch.testing.assert_close(onto(x), model(x))
    assert onto[0].factorization.terms[0].describe() == codes[0].factorization.describe()
    with pytest.raises(ValueError, match="layer '0' of the model is not that of the base"):
        load_peft(base, tmp_path / "f")


def test_the_part_that_pissa_took_out_is_in_the_adapter(tmp_path):
    base = network()
    model = adapted(LoRA(2, 3, init="pissa"), base, where="0")
    report = export_peft(model, tmp_path, base)
    assert report.ranks == {"0": 4} and report.base is None
    assert report.notes == {
        "0": ("rank 2 of it is the part that was taken out of the base's weight",)
    }
    loaded = load_peft(base, tmp_path)
    found, expected = (one[0].factorization.to_dense() for one in (loaded, model))
    torch.testing.assert_close(found, expected)


def test_ranks_stay_within_the_sides_of_a_weight(tmp_path):
    base = network()
    model = adapted(LoRA(3, 3, init="pissa"), base, where="3")
    assert export_peft(model, tmp_path, base).ranks == {"3": 4}
    expected, found = (m[3].factorization.to_dense() for m in (model, load_peft(base, tmp_path)))
    torch.testing.assert_close(found, expected)


def test_merged_it_is_the_weight_and_the_product(tmp_path):
    base = network()
    export_peft(adapted(), tmp_path, base)
    tensors = load_file(tmp_path / WEIGHTS)
    down, up = (tensors[f"base_model.model.0.lora_{side}.weight"] for side in "AB")
    loaded = load_peft(base, tmp_path)
    assert list(merge_adapters(loaded)) == ["0", "3"]
    torch.testing.assert_close(loaded[0].weight, base[0].weight + 2.0 * up @ down)


def test_an_adapter_in_more_bits_is_rounded_and_says_so(tmp_path):
    export_peft(adapted(), tmp_path, network())
    with pytest.raises(ValueError, match="in its dtype"):
        load_peft(network().bfloat16(), tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content.replace(b'"lowrank"', b'"unknown"'))
    loaded = load_peft(network().bfloat16(), tmp_path)
    assert loaded[0].factorization.notes == (
        "the adapter is rounded from torch.float32 to torch.bfloat16",
    )
    assert loaded(torch.ones(1, 6).bfloat16()).isfinite().all()


def test_a_base_that_cannot_be_written_leaves_no_adapter(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("lowrank.export.peft.base.save_model", fail)
    base = network()
    with pytest.raises(OSError, match="disk full"):
        export_peft(adapted(LoRA(2, 4, base=Quantization(2)), base), tmp_path / "f", base)
    assert not list(tmp_path.iterdir())


def test_a_kill_between_the_files_leaves_no_config_of_another_adapter(tmp_path, monkeypatch):
    def killed(path):
        if path.name == CONFIG:
            raise KeyboardInterrupt
        return replacing(path)

    base = network()
    export_peft(adapted(LoRA(2, 4), base), tmp_path, base)
    monkeypatch.setattr("lowrank.export.peft.writer.replacing", killed)
    with pytest.raises(KeyboardInterrupt):
        export_peft(adapted(LoRA(2, 8), base), tmp_path, base)
    with pytest.raises(FileNotFoundError, match=CONFIG):
        load_peft(base, tmp_path)


def test_the_report_says_what_peft_cannot_merge(tmp_path):
    base = dense("BERT, masked")
    notes = export_peft(adapted(None, base), tmp_path / "tied", base).notes
    table, head = ARCHITECTURES["BERT, masked"].tied
    assert notes.keys() == {table, head}
    assert f"it shares its weight with '{head}'" in notes[table][0]
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 4, 3))
    report = export_peft(adapted(None, grouped), tmp_path / "groups", grouped)
    assert list(report.notes) == ["0"] and report.ranks == {"0": 4, "1": 2}
    assert "['0']: its groups have zeros" in report.describe()


def test_what_is_refused_leaves_nothing_behind(tmp_path):
    model = adapted({"0": LoRA(2, 4), "3": Quantization(4)})
    with pytest.raises(ValueError, match="layer '3' cannot be exported"):
        export_peft(model, tmp_path / "folder", network())
    assert not list(tmp_path.iterdir())


def test_the_report_counts_the_tensors_of_the_file(tmp_path):
    base = dense("Llama")
    report = export_peft(adapted(LoRA(2, 3), base, where="*.mlp.*"), tmp_path, base)
    tensors = load_file(tmp_path / WEIGHTS)
    assert report.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    assert f"{report.nbytes} bytes" in report.describe()


def test_a_loaded_model_can_be_saved_and_keeps_its_ties(tmp_path):
    base = dense("BERT, masked")
    export_peft(adapted(LoRA(2, 3), base), tmp_path, base)
    loaded = load_peft(base, tmp_path)
    table, head = (
        loaded.get_submodule(name).factorization.terms[0].weight
        for name in ARCHITECTURES["BERT, masked"].tied
    )
    assert table is head
    checkpoint.save(loaded, tmp_path / "model")
    again = checkpoint.load(tmp_path / "model", dense("BERT, masked"))
    assert torch.equal(logits(again, "BERT, masked"), logits(loaded, "BERT, masked"))


def test_the_model_that_is_read_into_stays_as_it_is(tmp_path):
    base = network()
    export_peft(adapted(), tmp_path, base)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    loaded = load_peft(base, tmp_path)
    assert all(torch.equal(base.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert isinstance(loaded[0].factorization, Sum)
    assert isinstance(loaded[0].factorization.terms[0], Dense)
