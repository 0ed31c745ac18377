import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_tensors import random

from lowrank.decomposers import MagnitudePruning, RandomPruning


def kept(weight, *args, **options):
    return RandomPruning(*args, **options).decompose(weight).to_dense().detach() != 0


options = st.sampled_from(
    [
        {"sparsity": 0.7},
        {"compression_ratio": 3.0},
        {"pattern": "2:4"},
        {"sparsity": 0.5, "pattern": "rows"},
        {"sparsity": 0.5, "pattern": "4x4"},
    ]
)


@given(options, st.integers(0, 100))
def test_as_many_survive_as_of_magnitude_and_with_their_values(options, seed):
    weight = random(16, 24)
    result = RandomPruning(**options, seed=seed).decompose(weight)
    assert result.params == MagnitudePruning(**options).decompose(weight).params
    dense = result.to_dense()
    assert torch.equal(dense[dense != 0], weight[dense != 0])


def test_seed_and_numbers_decide_the_draw():
    weight = random(16, 24)
    assert torch.equal(kept(weight, 0.5, seed=1), kept(weight.clone(), 0.5, seed=1))
    assert not torch.equal(kept(weight, 0.5, seed=1), kept(weight, 0.5, seed=2))
    assert not torch.equal(kept(weight, 0.5), kept(random(16, 24, seed=1), 0.5))


def test_more_sparsity_keeps_a_part():
    weight = random(16, 24)
    for low, high in ((0.1, 0.4), (0.4, 0.9)):
        assert (kept(weight, low) | ~kept(weight, high)).all()


def test_every_weight_is_as_likely_to_stay():
    weight = random(5, 7)
    draws = 400
    stays = sum(kept(weight, 0.6, seed=seed).double() for seed in range(draws))
    # A binomial count of 400 with p = 0.4 lies within 5 standard deviations, 9.8 each.
    assert (stays - 0.4 * draws).abs().max() < 49


def test_the_lost_energy_is_the_sparsity_and_more_than_that_of_magnitude():
    weight = random(200, 200)
    random_loss = weight[~kept(weight, 0.8)].square().sum() / weight.square().sum()
    assert random_loss == pytest.approx(0.8, abs=0.02)
    magnitude = MagnitudePruning(0.8).decompose(weight).to_dense()
    assert (weight - magnitude).square().sum() / weight.square().sum() < random_loss


def test_bad_options_name_the_method():
    with pytest.raises(ValueError, match="RandomPruning with pattern 'rows' needs exactly one"):
        RandomPruning(pattern="rows")
