"""What compression does inside of a model: known answers, and a real network on digits."""

import itertools

import numpy as np
import pytest
import torch
from digits_task import TASK
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

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
from lowrank.reporting import plots


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
    assert layer_similarity(dense, dense, TASK, 64) == pytest.approx({"fc1": 1, "fc2": 1})
    found = layer_similarity(dense, pruned, TASK, 64)
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
    assert kept_images(filters, filters, TASK).shape == (6, 3, 3)
    with pytest.raises(ValueError, match="reads no images"):
        kept_images(nn.Linear(5, 2), nn.Linear(5, 2), TASK)


def test_heads_keep_what_is_left_of_their_rows_or_columns(llama):
    attention = llama.model.layers[0].self_attn
    before = {name: layer.weight.detach().clone() for name, layer in attention.named_children()}
    with torch.no_grad():
        attention.q_proj.weight[4:8] = 0  # The second head: its rows, and what reads it.
        attention.o_proj.weight[:, 4:6] = 0
    found = kept_of_heads(llama)
    start = "model.layers.0.self_attn."
    assert found[f"{start}q_proj"].tolist() == [1, 0, 1, 1]
    assert found[f"{start}k_proj"].tolist() == [1, 1]
    assert found[f"{start}o_proj"].tolist() == [1, 0.5, 1, 1]
    with torch.no_grad():
        for name, weight in before.items():
            getattr(attention, name).weight.copy_(weight)
    with pytest.raises(ValueError, match="how wide its heads"):
        kept_of_heads(nn.Linear(2, 2))


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
        "similarity": plots.similarity_figure({"fc1": 0.9, "fc2": -0.1}, "made up"),
        "directions": plots.direction_figure(direction_drops(dense, TASK, examples=50)),
        "mask": plots.mask_figure(kept_images(dense, pruned, TASK)),
        "heads": plots.heads_figure(kept_of_heads(llama)),
        "attention": plots.attention_figure(maps, maps),
    }
    assert len(figures["mask"].axes) == 1 + 16 + 1  # The share, the units, the scale.
    assert len(figures["attention"].axes) == 4 + 1
    shown = figures["directions"].axes[0].get_images()[0].get_array()
    np.testing.assert_allclose(shown, direction_drops(dense, TASK, examples=50).drops)
    assert plots.save(figures["heads"], tmp_path / "heads")[0].stat().st_size > 1000
    with pytest.raises(ValueError, match="no layer"):
        plots.similarity_figure({})
    with pytest.raises(ValueError, match="the same layers"):
        plots.attention_figure(maps, maps[:1])
