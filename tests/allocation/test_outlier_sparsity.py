"""Less sparsity where a layer has more outliers."""

import functools

import pytest
import torch
from torch import nn

from lowrank.allocation import OutlierSparsity
from lowrank.calibration import CalibratedNorms
from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning, SparseGPT

PRUNE = functools.partial(MagnitudePruning, within="row")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 48), nn.Linear(48, 100))
    with torch.no_grad():
        # The last layer has a few weights far above its others.
        model[3].weight[::5, ::7] *= 40
    return model


DATA = [torch.randn(128, 64, generator=torch.Generator().manual_seed(0))]


def sparsities(model, rule):
    result = compress(model, rule, norm=CalibratedNorms("diagonal"), data=DATA)
    zeros = [1 - layer.params / layer.dense_params for layer in result.layers]
    sizes = [layer.dense_params for layer in result.layers]
    return zeros, sum(z * n for z, n in zip(zeros, sizes, strict=True)) / sum(sizes)


def test_outliers_are_spared_and_the_mean_is_kept(model):
    zeros, mean = sparsities(model, OutlierSparsity(PRUNE, sparsity=0.6))
    assert mean == pytest.approx(0.6, abs=0.01)
    assert zeros[2] == min(zeros)
    assert max(zeros) - min(zeros) == pytest.approx(0.16, abs=0.02)


def test_shares_are_counted_as_in_the_paper(model):
    rule = OutlierSparsity(PRUNE, sparsity=0.5, outlier=3.0)
    x = DATA[0]
    shares, sizes = [], []
    for layer in model:
        if isinstance(layer, nn.Linear):
            scores = layer.weight.abs() * x.square().mean(0).sqrt()
            shares.append(float((scores > 3 * scores.mean()).float().mean()))
            sizes.append(layer.weight.numel())
        x = layer(x).detach()
    places = [0.16 * (s - min(shares)) / (max(shares) - min(shares)) for s in shares]
    mean = sum(p * n for p, n in zip(places, sizes, strict=True)) / sum(sizes)
    zeros, _ = sparsities(model, rule)
    assert zeros == pytest.approx([0.5 - p + mean for p in places], abs=0.02)


def test_without_spread_it_is_uniform(model):
    zeros, _ = sparsities(model, OutlierSparsity(PRUNE, sparsity=0.75, spread=0.0))
    assert zeros == pytest.approx([0.75] * 3, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"sparsity": 0.5, "outlier": 0}, "outlier=0 must be above 0"),
        ({"sparsity": 0.5, "spread": 1.0}, r"spread=1.0 must lie in \[0, 1\)"),
    ],
)
def test_bad_options(settings, text):
    with pytest.raises(ValueError, match=text):
        OutlierSparsity(PRUNE, **settings)


def test_a_spread_that_does_not_fit_names_the_layer(model):
    rule = OutlierSparsity(PRUNE, sparsity=0.95, spread=0.4)
    with pytest.raises(ValueError, match="layer '.': spread=0.4 around sparsity=0.95 asks"):
        compress(model, rule, norm=CalibratedNorms("diagonal"), data=DATA)


def test_without_a_norm_it_takes_the_one_that_its_method_knows_and_that_tells_outliers(model):
    given = compress(model, OutlierSparsity(MagnitudePruning, 0.7), data=DATA)
    assert {layer.norm for layer in given.layers} == {"diagonal"}
    given = compress(model, OutlierSparsity(SparseGPT, 0.7), data=DATA)
    assert {layer.norm for layer in given.layers} == {"full"}
