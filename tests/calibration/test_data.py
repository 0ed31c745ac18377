"""Data of every shape that gives the right statistics, or is refused before the work."""

from collections import UserDict

import datasets
import pytest
import torch
import transformers as hf
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lowrank.allocation import Budget, MixedAllocation, NormError, OutlierSparsity
from lowrank.calibration import Batches, CalibratedNorms, at_hand, best_norm, norm_named
from lowrank.compression.compress import compress
from lowrank.decomposers import GPTQ, HQQ, MagnitudePruning, Quantization, TruncatedSVD
from lowrank.model.sites import find_sites
from lowrank.norms import Diagonal, Full
from lowrank.recovery import BatchNormReestimation, BiasCorrection, FineTune, Tune
from lowrank.tasks import Digits, ImageClassification

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def moments(data, mode="one-shot"):
    """E[x xᵀ] of each layer, without damping."""
    seen = []

    class Kept(GPTQ):
        def _decompose(self, weight, norm):
            seen.append(norm.second_moment(weight))
            return super()._decompose(weight, norm)

    compress(network(), Kept(bits=8), norm=CalibratedNorms("full", 0.0, mode=mode), data=data)
    return seen


def rows() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"input": X.tolist()}).with_format("torch")


@pytest.mark.parametrize(
    "data",
    [
        [X],
        (X,),
        list(X.split(5)),
        [(X,)],
        [[X]],
        [{"input": X}],
        [UserDict(input=X)],
        [hf.BatchEncoding({"input": X})],
        DataLoader(X, batch_size=5),
        DataLoader(TensorDataset(X), batch_size=5),
        DataLoader(rows(), batch_size=4),
        Batches([X]),
    ],
    ids=lambda data: type(data).__name__,
)
def test_the_same_examples_in_any_form_give_the_same(data):
    first, second = moments(data)
    torch.testing.assert_close(first, X.double().T @ X.double() / 12, rtol=1e-6, atol=1e-7)
    hidden = network()[:2](X).detach().double()
    torch.testing.assert_close(second, hidden.T @ hidden / 12, rtol=1e-6, atol=1e-7)


def test_a_loader_that_shuffles_is_gone_through_once():
    asked = []

    class Counted(TensorDataset):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    loader = DataLoader(Counted(X), batch_size=4, shuffle=True)
    first, _ = moments(loader, mode="sequential")
    torch.testing.assert_close(first, X.double().T @ X.double() / 12, rtol=1e-6, atol=1e-7)
    assert sorted(asked) == list(range(12))
    assert at_hand(loader) is not loader and at_hand([X])[0] is X


def test_batches_may_differ_in_what_they_give():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x, shift=None):
            return self.layer(x if shift is None else x + shift)

    data = [{"x": X[:5]}, {"shift": X[:3], "x": X[5:8]}]
    model = Shifted()
    found = CalibratedNorms("full").calibrate(model, find_sites(model), data).statistics["layer"]
    given = torch.cat([X[:5], X[5:8] + X[:3]]).double()
    torch.testing.assert_close(found.columns, given.T @ given / 8, rtol=1e-6, atol=1e-7)


class Idle(nn.Module):
    """One layer runs, one never, one where a batch is large, and a table is read as a tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.unused, self.rare = (nn.Linear(6, 6) for _ in range(3))
        self.queries = nn.Embedding(3, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        x = self.first(x)
        x = self.rare(x) if bool(x.max() > 50) else x
        queries = self.queries.weight.expand(len(x), -1, -1)
        return self.attention(queries, x[:, None], x[:, None])[0]


METHODS = [
    GPTQ(bits=4),
    OutlierSparsity(MagnitudePruning, 0.5, spread=0.01),
    MixedAllocation([GPTQ(bits=4), GPTQ(bits=3)], Budget(ratio=1.05), NormError(), rivals=0),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_what_no_example_reaches_stays_and_is_named(method):
    model = Idle().eval()
    moment = "diagonal" if isinstance(method, OutlierSparsity) else "full"
    result = compress(model, method, norm=CalibratedNorms(moment), data=[X])
    assert [layer.name for layer in result.layers] == ["first", "attention.out_proj"]
    reasons = dict(result.left)
    for name in ("unused", "rare", "queries"):
        assert reasons[name] == f"layer '{name}': no example of the calibration data reached it"
        kept = result.model.get_submodule(name)
        assert torch.equal(kept.weight, model.get_submodule(name).weight)
    assert "queries, keys and values, which are not one tensor" in reasons["attention"]
    more = compress(model, method, norm=CalibratedNorms(moment), data=[X, 100 * X])
    assert [layer.name for layer in more.layers] == ["first", "rare", "attention.out_proj"]


@pytest.mark.parametrize("where", ["unused", "attention", ["queries", "rare"]])
def test_where_nothing_is_reached_the_call_says_why(where):
    with pytest.raises(ValueError, match="say nothing about any selected layer: layer '"):
        compress(Idle(), GPTQ(bits=4), where, norm=CalibratedNorms("full"), data=[X])


def test_of_kept_statistics_the_same_layers_stay(tmp_path):
    model, norm = Idle().eval(), CalibratedNorms("full")
    norm.calibrate(model, find_sites(model), [X]).save(tmp_path / "statistics")
    loaded = type(norm.calibrate(model, find_sites(model), [X])).load(tmp_path / "statistics")
    result = compress(model, GPTQ(bits=4), norm=norm, data=loaded)
    assert [layer.name for layer in result.layers] == ["first", "attention.out_proj"]
    assert "no example of the calibration data reached it" in dict(result.left)["rare"]


def test_a_note_of_calibration_stands_in_the_report(tmp_path):
    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x, pixel_mask):
            return self.layer(x)

    model, norm = Pixels(), CalibratedNorms("full")
    data = [{"x": X, "pixel_mask": torch.tensor([0, 1] * 6)}]
    kept = norm.calibrate(model, find_sites(model), data)
    kept.save(tmp_path / "statistics")
    for given in (data, kept, type(kept).load(tmp_path / "statistics")):
        (layer,) = compress(model, TruncatedSVD(rank=2), norm=norm, data=given).layers
        assert "the argument pixel_mask was not taken for padding" in " ".join(layer.notes)


@pytest.mark.parametrize(
    "norm", [CalibratedNorms("full"), CalibratedNorms("full", mode="sequential")]
)
@pytest.mark.parametrize("made_inside", [True, False])
def test_inference_mode_is_left_for_the_work(norm, made_inside):
    expected = compress(network(), GPTQ(bits=4), norm=norm, data=[X.clone()]).model(X)
    with torch.inference_mode():
        model, x = (network(), X.clone()) if made_inside else (network(), X)
        result = compress(model, GPTQ(bits=4), norm=norm, data=[x], example=(x[:1],))
        assert torch.is_inference_mode_enabled()
    assert torch.equal(result.model(X), expected)
    tensors = [*result.model.parameters(), *result.model.buffers()]
    assert not any(tensor.is_inference() for tensor in tensors)
    result.model(X.clone().requires_grad_()).sum().backward()
    assert all(p.grad is not None for p in result.model.parameters() if p.requires_grad)


def test_statistics_made_in_inference_mode_serve_outside_of_it():
    model = network()
    with torch.inference_mode():
        kept = CalibratedNorms("full").calibrate(model, find_sites(model), [X])
    assert not kept.statistics["0"].columns.is_inference()
    compress(model, GPTQ(bits=4), norm=CalibratedNorms("full"), data=kept)


def bn_network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 10))


TASK = ImageClassification(
    name="digits",
    architecture="own",
    source=Digits(),
    builder=f"{__name__}:bn_network",
    weights=None,
    validation_size=180,
    calibration_size=64,
)
RECOVERIES = [
    Tune(epochs=1),
    BiasCorrection(),
    BatchNormReestimation(2, 16),
    FineTune(epochs=1, learning_rate=1e-3, batch_size=256),
]


@pytest.mark.parametrize("recovery", RECOVERIES, ids=lambda recovery: type(recovery).__name__)
def test_recoveries_leave_inference_mode_too(recovery, tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRANK_CACHE", str(tmp_path))
    dense = TASK.model()
    outside, inside = (compress(dense, Quantization(2)).model for _ in range(2))
    recovery.recover(outside, TASK)
    with torch.inference_mode():
        recovery.recover(inside, TASK)
    for one, other in zip(outside.parameters(), inside.parameters(), strict=True):
        assert torch.equal(one, other) and not other.is_inference()


def test_a_norm_has_a_name():
    for word in ("diagonal", "full", "fisher"):
        assert norm_named(word) == CalibratedNorms(word)
    assert norm_named("identity").types[0].word == "identity"


def test_the_best_norm_is_the_one_that_knows_most_of_those_a_method_takes():
    assert best_norm(GPTQ(bits=4).check_norms).types == (Full,)
    assert best_norm(Quantization(bits=4).check_norms).types == (Diagonal,)
    assert best_norm(HQQ(bits=4).check_norms) == norm_named("identity")
    mix = MixedAllocation([GPTQ(bits=3), Quantization(bits=3)], Budget(ratio=2))
    assert best_norm(mix.check_norms) == norm_named("diagonal")
