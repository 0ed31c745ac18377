"""The walk over a model: what is replaced, what stays, and what the report says."""

import copy

import pytest
import torch
from digits_task import TASK
from torch import nn

from lowrank.allocation import Budget, ByName, GlobalRank, MixedAllocation, Uniform
from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    GPTQ,
    HQQ,
    LoRA,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
    Uncompressed,
)
from lowrank.model.factorized import FactorizedConvolution, FactorizedLinear
from lowrank.model.select import Select
from lowrank.recovery import DecomposeLeaves


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2, bias=False),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 40),
        nn.ReLU(),
        nn.Linear(40, 10),
    ).eval()


def full_rank(weight: torch.Tensor) -> TruncatedSVD:
    return TruncatedSVD(rank=min(weight.shape))


def test_the_model_is_not_changed_and_shares_no_tensor_with_the_result():
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    result = compress(model, Quantization(bits=4))
    for parameter in result.model.parameters():
        parameter.data.add_(1)
    for buffer in result.model.buffers():
        buffer.add_(1)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("view", ["channel", "spatial"])
def test_the_compressed_model_computes_with_the_approximated_weights(view):
    """The same network with Ŵ written into its dense layers gives the same outputs."""
    model = small_network().double()
    result = compress(model, TruncatedSVD(rank=2, view=view))
    expected = copy.deepcopy(model)
    for name, layer in result.model.named_modules():
        if isinstance(layer, FactorizedLinear | FactorizedConvolution):
            expected.get_submodule(name).weight.data.copy_(layer.weight)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(result.model(x), expected(x), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(result.model(x), model(x))


def test_the_report_counts_by_hand():
    example = (torch.randn(1, 3, 8, 8),)
    result = compress(small_network(), TruncatedSVD(rank=2), where="6", example=example)
    [layer] = result.layers
    assert (layer.name, layer.kind, layer.shape) == ("6", "Linear", (40, 48))
    assert layer.factorization == "LowRank 48→2→40"
    assert (layer.dense_params, layer.params) == (40 * 48, 2 * (40 + 48))
    assert (layer.dense_bytes, layer.bytes) == (4 * 40 * 48, 4 * 2 * (40 + 48))
    assert (layer.dense_macs, layer.macs) == (40 * 48, 2 * (40 + 48))
    assert layer.bits_per_weight == pytest.approx(32 * 2 * (40 + 48) / (40 * 48))
    assert 0 < layer.relative_error < 1
    assert {name for name, _ in result.skipped} == {"0", "3", "8"}


def test_convolution_macs_by_hand():
    model = nn.Sequential(nn.Conv2d(6, 10, 3, padding=1))
    example = (torch.randn(1, 6, 7, 5),)
    channel = compress(model, TruncatedSVD(rank=2, view="channel"), example=example).layers[0]
    spatial = compress(model, TruncatedSVD(rank=2, view="spatial"), example=example).layers[0]
    assert channel.dense_macs == spatial.dense_macs == 10 * 6 * 9 * 35
    assert channel.macs == 2 * (6 * 9 + 10) * 35
    assert spatial.macs == 2 * (6 * 3 + 10 * 3) * 35


def test_the_first_and_the_last_layer_are_out_by_an_explicit_setting():
    result = compress(small_network(), Quantization(8), where=Select(first=False, last=False))
    assert [layer.name for layer in result.layers] == ["3", "6"]
    assert ("0", "the first layer, first=False") in result.skipped
    assert ("8", "the last layer, last=False") in result.skipped


def test_select_by_kind_size_and_name():
    model = small_network()
    kinds = compress(model, Quantization(8), where=Select(kinds=["Linear"]))
    assert [layer.name for layer in kinds.layers] == ["6", "8"]
    sizes = compress(model, Quantization(8), where=Select(min_params=500))
    assert [layer.name for layer in sizes.layers] == ["6"]
    names = compress(model, Quantization(8), where=Select(include=["3", "[68]"], exclude="8"))
    assert [layer.name for layer in names.layers] == ["3", "6"]


def test_different_decomposers_by_name():
    result = compress(small_network(), {"6": TruncatedSVD(rank=3), "[03]": Quantization(4)})
    assert [layer.factorization[:9] for layer in result.layers] == [
        "Quantized",
        "Quantized",
        "LowRank 4",
    ]
    assert ("8", "the allocation leaves it as it is") in result.skipped
    with pytest.raises(ValueError, match=r"patterns \['9'\] decide no layer"):
        compress(small_network(), ByName({"*": Quantization(4), "9": Quantization(8)}))


def test_uniform_is_the_decomposer_alone():
    x = torch.randn(2, 3, 8, 8)
    one = compress(small_network(), Quantization(4)).model(x)
    other = compress(small_network(), Uniform(Quantization(4))).model(x)
    assert torch.equal(one, other)


def test_a_layer_kept_dense_says_so():
    result = compress(small_network(), TruncatedSVD(rank=10), where="8")
    assert result.layers[0].notes[0].startswith("kept dense: rank 10")
    assert result.layers[0].factorization == "Dense 40→10"


def test_training_mode_is_kept():
    assert compress(small_network().train(), Quantization(8)).model.training
    assert not compress(small_network().eval(), Quantization(8)).model.training


def test_a_bare_layer_is_a_model():
    layer = nn.Linear(6, 4)
    result = compress(layer, Quantization(8))
    assert isinstance(result.model, FactorizedLinear)
    torch.testing.assert_close(result.model(torch.eye(6)), layer(torch.eye(6)), rtol=0, atol=0.01)


def test_a_module_used_twice_is_replaced_everywhere():
    shared = nn.Linear(5, 5)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.ReLU())})
    result = compress(model, Quantization(8))
    assert len(result.layers) == 1
    assert result.model["a"] is result.model["b"][0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_names_its_layer(value):
    model = small_network()
    model[6].weight.data[3, 4] = value
    with pytest.raises(ValueError, match="layer '6': 1 of 1920 values .* are NaN or infinite"):
        compress(model, Quantization(8))


def test_a_hyperparameter_that_does_not_fit_names_the_layer():
    with pytest.raises(ValueError, match=r"layer '8': rank=11 does not fit .* must lie in 1..10"):
        compress(small_network(), TruncatedSVD(rank=11), where="8")


def test_a_selection_that_matches_nothing_says_what_there_is():
    with pytest.raises(ValueError, match="matches no layer.*0, 3, 6, 8"):
        compress(small_network(), Quantization(8), where="layer*")
    with pytest.raises(ValueError, match=r"kinds=\['Embedding'\] are not in the model"):
        compress(small_network(), Quantization(8), where=Select(kinds=["Embedding"]))


def test_what_no_rule_knows_is_reported():
    class Distances(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

    model = nn.Sequential(Distances(), nn.Conv2d(4, 4, 1))
    result = compress(model, Quantization(8))
    assert ("0.weight", "no rule for a Distances, whose own code uses it") in result.skipped


def test_a_compressed_model_is_refused_and_told_what_compresses_it():
    model = compress(small_network(), Quantization(8)).model
    factors = compress(small_network(), TruncatedSVD(2), where="3").model
    text = "3.factorization.factors.0.weight: a part of a factorization, which `lowrank.recovery.De"
    with pytest.raises(ValueError, match=text):
        compress(factors, Quantization(4), where="3")
    with pytest.raises(ValueError, match="matches no layer"):
        compress(model, Quantization(4))
    DecomposeLeaves(Quantization(4)).recover(factors, TASK)
    assert "Quantized" in factors[3].factorization.describe()


def test_to_frame_has_one_row_per_layer():
    frame = compress(small_network(), Quantization(4)).to_frame()
    assert list(frame["name"]) == ["0", "3", "6", "8"]


def test_what_was_frozen_stays_frozen_but_for_adapters():
    model = small_network()
    model[6].requires_grad_(False)
    pruned = compress(model, MagnitudePruning(0.5)).model
    assert not any(parameter.requires_grad for parameter in pruned[6].parameters())
    assert all(parameter.requires_grad for parameter in pruned[8].parameters())
    adapted = compress(model, LoRA(rank=2, alpha=4), where="6").model
    trained = [name for name, p in adapted[6].named_parameters() if p.requires_grad]
    assert trained and all(".term.factors." in name for name in trained)


def test_each_module_keeps_its_own_mode():
    model = small_network().train()
    model[1].eval()
    result = compress(model, Quantization(8)).model
    assert not result[1].training and result[6].training


def test_a_classifier_tied_to_the_embeddings_is_the_last_layer_too():
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 30, bias=False))
    model[2].weight = model[0].weight
    result = compress(model, Quantization(8), where=Select(last=False))
    assert [layer.name for layer in result.layers] == ["1"]


@pytest.mark.parametrize("is_tied", [False, True])
def test_embeddings_are_in_or_out_by_an_explicit_setting(is_tied):
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 8), nn.Linear(8, 30, bias=False))
    if is_tied:
        model[2].weight = model[0].weight
    result = compress(model, Quantization(8), where=Select(embeddings=False))
    assert [layer.name for layer in result.layers] == (["1"] if is_tied else ["1", "2"])
    assert ("0", "used by an embedding table, embeddings=False") in result.skipped
    both = compress(model, Quantization(8), where=Select(embeddings=False, last=False))
    assert [layer.name for layer in both.layers] == ["1"]
    whole = compress(model, Quantization(8))
    assert [layer.name for layer in whole.layers] == (["0", "1"] if is_tied else ["0", "1", "2"])


def test_hooks_of_a_layer_act_on_what_stands_in_for_it():
    model, seen = small_network(), []
    model[6].register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    model[6].register_forward_hook(lambda m, args, kwargs, y: seen.append(y), with_kwargs=True)
    model[6].register_full_backward_hook(lambda *_: seen.append("backward"))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    small = compress(model, Uncompressed()).model
    outputs = small(x)
    torch.testing.assert_close(outputs, model(x))
    assert len(seen) == 2
    outputs.sum().backward()
    assert seen[2:] == ["backward"]
    # The copy's hooks are its own.
    small[6]._forward_pre_hooks.clear()
    assert model[6]._forward_pre_hooks


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ([], "matches no layer"),
        ("", "matches no layer"),
        (Select(exclude="clasifier"), r"exclude=\['clasifier'\] matches none of the layers"),
        (["0", "typo*"], r"include=\['typo\*'\] matches none of the layers"),
        (Select(kinds="Embedding"), r"kinds=\['Embedding'\] are not in the model"),
    ],
)
def test_slips_in_a_selection(where, message):
    with pytest.raises(ValueError, match=message):
        compress(small_network(), Quantization(8), where=where)


@pytest.mark.parametrize("method", ["svd", TruncatedSVD, {"*": "svd"}, None])
def test_what_is_no_method(method):
    with pytest.raises(ValueError, match="must be a decomposer such as"):
        compress(small_network(), method)


def test_a_method_for_no_layer():
    with pytest.raises(ValueError, match="gives none of the selected layers a decomposer"):
        compress(small_network(), {})


class Named(nn.Module):
    """A model whose inputs have names only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(16, 8)

    def forward(self, *, x, scale=1.0):
        return {"y": self.body(x) * scale}


def test_an_example_may_be_given_by_name():
    x = torch.randn(1, 16)
    by_name = compress(Named(), TruncatedSVD(rank=2), example={"x": x, "scale": 2.0}).layers[0]
    by_place = compress(Named().body, TruncatedSVD(rank=2), example=(x,)).layers[0]
    assert by_name.macs == by_place.macs == 2 * 24 and by_name.dense_macs == 128


def test_a_forward_that_was_set_on_a_module_is_left_alone_and_said():
    model = small_network()
    run = model[6].forward
    model[6].forward = lambda x: 3 * run(x)
    result = compress(model, Quantization(bits=8))
    assert [layer.name for layer in result.layers] == ["0", "3", "8"]
    assert dict(result.skipped)["6.weight"].startswith("its `forward` was set")
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(result.model(x), model(x), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("method", [GPTQ(bits=3), MagnitudePruning(0.5), TruncatedSVD(rank=3)])
def test_data_without_a_norm_are_used_as_far_as_the_method_knows(method):
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8))
    data = [torch.randn(64, 16) @ torch.randn(16, 16)]
    word = "diagonal" if isinstance(method, MagnitudePruning) else "full"
    given = compress(model, method, data=data)
    asked = compress(model, method, norm=word, data=data)
    spelled = compress(model, method, norm=CalibratedNorms(word), data=data)
    assert {layer.norm for layer in given.layers} == {word}
    for result in (asked, spelled):
        assert [layer.norm_error for layer in result.layers] == [
            layer.norm_error for layer in given.layers
        ]
    blind = compress(model, method)
    assert blind.layers[0].relative_error < given.layers[0].relative_error


def test_data_that_nothing_would_use_are_refused():
    model, data = nn.Sequential(nn.Linear(16, 16)), [torch.randn(8, 16)]
    for method, norm in ((HQQ(bits=4), None), (GPTQ(bits=4), "identity"), (GlobalRank(1.2), None)):
        with pytest.raises(ValueError, match="calibration data would have no effect"):
            compress(model, method, norm=norm, data=data)
    # A mix measures on them how far outputs move.
    mix = MixedAllocation([HQQ(bits=4), TruncatedSVD(rank=2)], Budget(ratio=3))
    assert {layer.norm for layer in compress(model, mix, data=data).layers} == {"identity"}


def test_compressed_inside_inference_mode_it_can_be_trained_outside():
    model, x = small_network(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        small = compress(model, TruncatedSVD(rank=2), example=(x[:1],)).model
        inside = small(x)
    small(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    torch.testing.assert_close(small(x).detach(), inside.clone())


def test_bytes_are_counted_anew_after_training():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.half())
    result = compress(model, MagnitudePruning(0.5))
    before = [layer.bytes for layer in result.layers]
    assert before[0] == 512 * 2 + 128 and before[1] == 512 * 4 + 128
    with torch.no_grad():
        for parameter in result.model.parameters():
            parameter.mul_(1 / 3)
    result.remeasure()
    assert [layer.bytes for layer in result.layers] == [512 * 4 + 128] * 2
    assert [layer.bits_per_weight for layer in result.layers] == [8 * (512 * 4 + 128) / 1024] * 2
