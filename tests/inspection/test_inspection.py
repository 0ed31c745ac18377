"""What compression does inside of a model: known answers, and a real network on digits."""

import copy
import itertools

import numpy as np
import pytest
import torch
from digits_task import TASK
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

import lowrank
from lowrank import MagnitudePruning, TruncatedSVD
from lowrank.inspection import (
    attention_maps,
    cka,
    direction_drops,
    kept_images,
    kept_of_heads,
    layer_similarity,
    matrices,
)
from lowrank.inspection.directions import right_scores
from lowrank.inspection.similarity import LayerSimilarity
from lowrank.reporting import plots
from lowrank.reporting.plots.text import ending


@pytest.fixture(scope="module")
def dense():
    return TASK.network().eval()


@pytest.fixture(scope="module")
def pruned(dense):
    return lowrank.compress(dense, MagnitudePruning(0.8)).model


@pytest.fixture(scope="module")
def llama():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 20}
    config = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes)
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def drawn(examples, features, seed):
    return torch.tensor(np.random.default_rng(seed).normal(size=(examples, features)))


def hsic(first, second):
    """The unbiased estimator by its definition, a mean over four different examples (Song et al.
    2012, Eq. 4)."""
    rows = list(itertools.permutations(range(len(first)), 4))
    terms = [first[i, j] * (second[i, j] + second[q, r] - 2 * second[i, q]) for i, j, q, r in rows]
    return sum(terms) / len(rows)


@given(st.integers(5, 30), st.integers(1, 40), st.integers(0, 20))
def test_cka_of_a_rotated_shifted_and_scaled_representation_is_one(examples, features, seed):
    values = drawn(examples, features, seed)
    rotation = torch.linalg.qr(drawn(features, features, seed + 1)).Q
    assert cka(values, 3 * values @ rotation - 7) == pytest.approx(1)


def test_cka_is_that_of_the_definition():
    first, second = drawn(7, 5, 0), drawn(7, 3, 1)
    grams = [one @ one.T for one in (first, second)]
    expected = hsic(*grams) / (hsic(grams[0], grams[0]) * hsic(grams[1], grams[1])) ** 0.5
    assert cka(first, second) == pytest.approx(float(expected))


def test_cka_of_unrelated_representations_is_about_zero_with_more_features_than_examples():
    found = [cka(drawn(20, 200, seed), drawn(20, 200, 99 - seed)) for seed in range(20)]
    assert abs(np.mean(found)) < 0.05


@pytest.mark.parametrize(
    "ours, theirs, text",
    [
        (torch.zeros(3, 2), torch.zeros(3, 2), "4 examples or more"),
        (torch.zeros(5, 2), torch.zeros(4, 2), "4 examples or more"),
        (torch.full((5, 2), float("nan")), torch.ones(5, 2), "finite"),
        (torch.ones(5, 2), torch.eye(5), "alike for all examples"),
    ],
)
def test_representations_without_cka_are_refused(ours, theirs, text):
    with pytest.raises(ValueError, match=text):
        cka(ours, theirs)


def test_layers_are_alike_only_where_nothing_changed(dense, pruned):
    same = layer_similarity(dense, dense, TASK, 64)
    assert same.cka == pytest.approx({"fc1": 1, "fc2": 1}) and not same.left_out
    found = layer_similarity(dense, pruned, TASK, 64).cka
    assert list(found) == ["fc1", "fc2"] and all(0.1 < one < 0.999 for one in found.values())


def test_the_drops_of_all_directions_add_up_in_the_last_layer(dense):
    """Its logits are linear in the weight: without all directions only the bias is left."""
    found = direction_drops(dense, TASK, directions=99, examples=100)
    batch = TASK.split("test").batch(torch.arange(100))
    with torch.inference_mode():
        fallen, targets = right_scores(batch.run(dense) - dense.fc2.bias, batch.targets)
    expected = torch.stack([fallen[targets == one].mean() for one in found.classes])
    assert found.layer == "fc2" and found.drops.shape == (10, 10)
    torch.testing.assert_close(found.drops.sum(dim=0), expected, atol=1e-4, rtol=1e-4)


def test_a_direction_that_only_one_class_reads_carries_that_class(dense):
    model = TASK.network().eval()
    with torch.no_grad():
        model.fc2.weight[3] *= 50
    found = direction_drops(model, TASK, directions=1, examples=200)
    assert found.classes[int(found.drops[0].abs().argmax())] == 3
    before = TASK.network().state_dict().keys()
    assert model.state_dict().keys() == before


def test_layers_and_tasks_without_logits_are_refused(dense):
    with pytest.raises(ValueError, match="holds no weight: there are fc1, fc2"):
        direction_drops(dense, TASK, "fc9")
    with pytest.raises(ValueError, match="no scores of classes or tokens"):
        right_scores(torch.zeros(2, 3), torch.zeros(2, 3))


def test_scores_of_tokens_skip_what_does_not_count():
    outputs = torch.arange(24.0).reshape(2, 3, 4)
    scores, targets = right_scores(outputs, torch.tensor([[0, -100, 1], [3, 2, -100]]))
    assert targets.tolist() == [0, 1, 3, 2] and scores.tolist() == [0, 9, 15, 18]


def test_the_mask_of_the_first_layer_has_the_shape_of_the_images(dense, pruned):
    kept = kept_images(dense, pruned, TASK)
    assert kept.shape == (16, 8, 8)
    torch.testing.assert_close(kept.flatten(1), pruned.fc1.weight != 0)
    filters = nn.Sequential(nn.Conv2d(2, 3, 3))
    with torch.no_grad():
        filters[0].weight[1, :, 0, 2] = 0  # In both channels.
        filters[0].weight[2, 0] = 0  # In one of them.
    kept = kept_images(filters, filters, TASK)
    assert kept.shape == (3, 3, 3) and int((~kept).sum()) == 1 and not kept[1, 0, 2]
    with pytest.raises(ValueError, match="reads no images"):
        kept_images(nn.Linear(5, 2), nn.Linear(5, 2), TASK)
    with pytest.raises(ValueError, match="first layer, fc1, keeps every place"):
        kept_images(dense, lowrank.compress(dense, TruncatedSVD(4)).model, TASK)


class Partly(nn.Module):
    """A layer that gives the same for all examples, and one that is not called."""

    def __init__(self):
        super().__init__()
        self.fc1, self.constant, self.idle = nn.Linear(64, 4), nn.Linear(64, 4), nn.Linear(4, 4)
        nn.init.zeros_(self.constant.weight)

    def forward(self, images):
        return self.fc1(images.flatten(1)) + self.constant(images.flatten(1))


def test_layers_without_a_similarity_are_named():
    found = layer_similarity(Partly(), Partly(), TASK, 64)
    assert list(found.cka) == ["fc1"] and list(found.left_out) == ["constant", "idle"]
    assert "alike for all examples" in found.left_out["constant"]
    assert "does not call it" in found.left_out["idle"]


def test_heads_keep_what_is_left_of_their_rows_or_columns(llama):
    small = copy.deepcopy(llama)
    attention = small.model.layers[0].self_attn
    with torch.no_grad():
        attention.q_proj.weight[4:8] = 0  # The second head: its rows, and what reads it.
        attention.o_proj.weight[:, 4:6] = 0
    found = kept_of_heads(llama, small)
    start = "model.layers.0.self_attn."
    assert found[f"{start}q_proj"].tolist() == [1, 0, 1, 1]
    assert found[f"{start}k_proj"].tolist() == [1, 1]
    assert found[f"{start}o_proj"].tolist() == [1, 0.5, 1, 1]
    with pytest.raises(ValueError, match="how wide its heads"):
        kept_of_heads(nn.Linear(2, 2), nn.Linear(2, 2))


TINY = {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 20}
FALCON = FalconConfig(num_kv_heads=2, new_decoder_architecture=True, **TINY)
# Of models whose queries, keys and values are one layer: how they are made, the attention, its
# fused layer, and the heads of keys.
FUSED = {
    "GPT-2": (GPT2LMHeadModel, GPT2Config(n_embd=16, n_head=4, n_layer=1, vocab_size=20), 4),
    "GPT-NeoX": (GPTNeoXForCausalLM, GPTNeoXConfig(intermediate_size=24, **TINY), 4),
    "Falcon, several groups": (FalconForCausalLM, FALCON, 2),
    "Falcon, one group": (
        FalconForCausalLM,
        FalconConfig(multi_query=True, new_decoder_architecture=False, **TINY),
        1,
    ),
    "Phi-3": (
        Phi3ForCausalLM,
        Phi3Config(num_key_value_heads=2, intermediate_size=24, pad_token_id=0, **TINY),
        2,
    ),
}
FUSED_LAYERS = ("c_attn", "query_key_value", "qkv_proj")


@pytest.mark.parametrize("name", FUSED)
def test_heads_of_fused_layers_are_those_that_the_model_computes_with(name):
    """A head without queries weighs all that it sees alike, whatever the rest of the model is."""
    kind, config, keys = FUSED[name]
    torch.manual_seed(0)
    dense = kind._from_config(copy.deepcopy(config), attn_implementation="eager").eval()
    for path, module in list(dense.named_modules()):
        if isinstance(module, FalconLinear):  # Which computes what its base does.
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            plain.load_state_dict(module.state_dict())
            dense.set_submodule(path, plain)
    small = copy.deepcopy(dense)
    (place,) = [n for n, _ in small.named_modules() if n.rpartition(".")[2] in FUSED_LAYERS]
    layer, head, width = small.get_submodule(place), 2, 4
    with torch.no_grad():
        for bias in (one.bias for one in (layer, dense.get_submodule(place))):
            if bias is not None:
                bias.zero_()
        matrix = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        before = matrix.clone()
        # The rows of the one head whose loss makes that head's attention even.
        for start in range(0, len(matrix), width):
            matrix.copy_(before)
            matrix[start : start + width] = 0
            if is_even(attention_maps(small, Sentences())[0][head]):
                break
    found = kept_of_heads(dense, small)
    parts = {part: found[f"{place} ({part})"] for part in ("queries", "keys", "values")}
    assert [len(one) for one in parts.values()] == [4, keys, keys]
    expected = torch.ones(4, dtype=torch.float64)
    expected[head] = 0
    assert torch.equal(parts["queries"], expected)
    assert bool((parts["keys"] == 1).all()) and bool((parts["values"] == 1).all())


def is_even(one):
    """Whether every position weighs all before it and itself alike."""
    seen = torch.ones_like(one).tril()
    return torch.allclose(one, seen / seen.sum(dim=1, keepdim=True), atol=1e-6)


def test_the_heads_of_packed_attention_are_parted():
    dense = nn.Sequential(nn.MultiheadAttention(8, 2))
    small = copy.deepcopy(dense)
    with torch.no_grad():
        small[0].in_proj_weight[12:16] = 0  # Of the keys the second head.
        small[0].out_proj.weight[:, :2] = 0
    found = kept_of_heads(dense, small)
    assert {name: one.tolist() for name, one in found.items()} == {
        "0 (queries)": [1, 1],
        "0 (keys)": [1, 0],
        "0 (values)": [1, 1],
        "0.out_proj": [0.5, 1],
    }


class Attention(nn.Module):
    """A layer of attention that says how wide its heads are."""

    def __init__(self, **layers):
        super().__init__()
        self.head_dim, self.num_heads = 4, 2
        for name, rows in layers.items():
            setattr(self, name, nn.Linear(8, rows))


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ({"mystery": 8}, "where the heads are in attn.mystery is not known: .* q_proj"),
        ({"q_proj": 6}, "attn.q_proj has 6 rows or columns of heads, which are not whole heads"),
        ({"c_attn": 16}, "attn.c_attn has 4 heads .* says 2 of queries and 2 of keys"),
    ],
)
def test_layers_whose_heads_are_not_known_are_refused(layers, says):
    model = nn.ModuleDict({"attn": Attention(**layers)})
    with pytest.raises(ValueError, match=says):
        kept_of_heads(model, model)


class Sentences:
    """A task with one input of tokens."""

    def split(self, name):
        return self

    def __len__(self):
        return 1

    def batch(self, rows):
        return torch.arange(6)[None]

    def forward(self, model, batch):
        return model(batch)


def test_attention_is_a_distribution_over_the_past_and_leaves_the_model_as_it_was(llama):
    before = llama.config._attn_implementation
    with torch.inference_mode():
        outputs = llama(torch.arange(6)[None]).logits
    maps = attention_maps(llama, Sentences())
    assert [one.shape for one in maps] == [(4, 6, 6)] * 2
    for one in maps:
        torch.testing.assert_close(one.sum(dim=2), torch.ones(4, 6, dtype=torch.float64))
        assert not one.triu(1).any()
    assert llama.config._attn_implementation == before
    with torch.inference_mode():
        assert torch.equal(llama(torch.arange(6)[None]).logits, outputs)


def test_models_that_cannot_give_their_attention_are_refused_and_left_as_they_were(caplog):
    model = FalconForCausalLM(copy.deepcopy(FALCON)).eval()
    with pytest.raises(ValueError, match="cannot change .*attn_implementation='eager'"):
        attention_maps(model, Sentences())
    assert not model._forward_hooks and not model.config.output_attentions


def test_models_without_attention_and_other_rows_are_refused(dense, llama):
    with pytest.raises(ValueError, match="no model of transformers"):
        attention_maps(dense, TASK)
    with pytest.raises(ValueError, match="row=1 is no example"):
        attention_maps(llama, Sentences(), row=1)


def test_the_kept_part_of_a_spectrum_ends_at_the_rank(dense):
    small = lowrank.compress(dense, {"fc1": TruncatedSVD(5)}).model
    figure = plots.kept_spectra(*matrices(dense, small))
    whole, kept = figure.axes[0].get_lines()
    assert len(whole.get_ydata()) == 16 and len(kept.get_ydata()) == 5
    assert kept.get_ydata() == pytest.approx(whole.get_ydata()[:5], rel=1e-4)


def test_every_figure_draws_what_it_is_given(dense, pruned, llama, tmp_path):
    maps = attention_maps(llama, Sentences())
    figures = {
        "similarity": plots.similarity_figure(LayerSimilarity({"a": 0.9, "b": -0.1}, {}), "x"),
        "directions": plots.direction_figure(direction_drops(dense, TASK, examples=50)),
        "mask": plots.mask_figure(kept_images(dense, pruned, TASK)),
        "heads": plots.heads_figure(kept_of_heads(llama, llama)),
        "attention": plots.attention_figure(maps, maps),
    }
    assert len(figures["mask"].axes) == 1 + 16 + 1  # The share, the units, the scale.
    assert len(figures["attention"].axes) == 4 + 1
    shown = figures["directions"].axes[0].get_images()[0].get_array()
    np.testing.assert_allclose(shown, direction_drops(dense, TASK, examples=50).drops)
    assert figures["directions"].axes[0].get_ylabel() == "direction of fc2, first 8 of 10"
    assert plots.save(figures["heads"], tmp_path / "heads")[0].stat().st_size > 1000
    with pytest.raises(ValueError, match="no layer"):
        plots.similarity_figure(LayerSimilarity({}, {}))
    with pytest.raises(ValueError, match="the same layers"):
        plots.attention_figure(maps, maps[:1])


def test_of_many_layers_those_that_changed_are_drawn_over_the_whole_depth():
    dense = {f"layers.{place}.weight": drawn(6, 4, place) for place in range(40)}
    small = {name: one / 2 if place % 2 else one for place, (name, one) in enumerate(dense.items())}
    figure = plots.kept_spectra(dense, small, "made up")
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 12 and titles[0] == "layers.1.weight" and titles[-1] == "layers.39.weight"
    assert "12 of 20 layers" in str(figure._suptitle.get_text())  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="no layer"):
        plots.kept_spectra(dense, {})


def test_a_long_name_keeps_its_end():
    name = "encoder.encoder.layer.3.attention.output.dense"
    short = ending(name, 2.2, 7)
    assert short.startswith("…") and short.endswith(".3.attention.output.dense")
    assert ending("fc1", 2.2) == "fc1"
    assert 2 < len(ending("x" * 200, 1.0)) < 40
