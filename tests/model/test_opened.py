"""Modules whose weights became modules of their own: the same outputs, and what they multiply."""

import copy

import pytest
import torch
from kinds_of_layers import KINDS, Model, random
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_sequence

from lowrank.calibration import Batches, CalibratedNorms, Calibration
from lowrank.calibration.collect import collect
from lowrank.compression.compress import check, compress
from lowrank.decomposers import GPTQ, Quantization, TruncatedSVD
from lowrank.export import checkpoint
from lowrank.inspection.weights import pairs
from lowrank.model.opened import open_weights
from lowrank.model.select import Select

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def recurrent(kind, **options):
    torch.manual_seed(0)
    return kind(4, 6, **options).double().eval()


def moments(model, data, layer=""):
    model = open_weights(model).model
    names = [
        name for name, module in model.named_modules() if type(module).__name__ == "ReadWeight"
    ]
    found = collect(model, names, Batches(data), full=True)
    return {name.removeprefix(layer): found[name] for name in names}


def second(x):
    rows = x.detach().reshape(-1, x.shape[-1])
    return rows.T @ rows / len(rows)


@pytest.mark.parametrize(
    "name", [n for n, k in KINDS.items() if (not k.linear or "norm" in n) and n != "attention"]
)
def test_an_opened_layer_gives_the_same_outputs(name):
    kind = KINDS[name]
    model = copy.deepcopy(kind.dense()) if "old" not in name else Model(kind.made(0)).eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    opened = open_weights(model).model
    assert opened is not model
    with torch.no_grad():
        torch.testing.assert_close(opened(*kind.inputs), model(*kind.inputs))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_weights_multiply_the_states_before_each_step(kind, batch_first):
    """The fused kernel's own outputs, shifted by a step, from the first states on."""
    layer = recurrent(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, first = random(7, 3, 4), random(4, 3, 6, seed=1)
    states = (first, random(4, 3, 6, seed=2)) if kind is nn.LSTM else first
    given = x.transpose(0, 1) if batch_first else x
    found = moments(Model(layer), [(given, states)], "layer.")
    lower = recurrent(kind, bidirectional=True)
    lower.load_state_dict({n: p for n, p in layer.state_dict().items() if "_l0" in n})
    own = (states[0][:2], states[1][:2]) if kind is nn.LSTM else states[:2]
    inside, outside = lower(x, own)[0], layer(given, states)[0]
    outside = outside.transpose(0, 1) if batch_first else outside
    for number, y in enumerate((inside, outside)):
        ahead, back = y.chunk(2, dim=-1)
        before = torch.cat([first[2 * number, None], ahead[:-1]])
        after = torch.cat([back[1:], first[2 * number + 1, None]])
        torch.testing.assert_close(found[f"hh_l{number}"].columns, second(before))
        torch.testing.assert_close(found[f"hh_l{number}_reverse"].columns, second(after))
    torch.testing.assert_close(found["ih_l0"].columns, second(x))
    torch.testing.assert_close(found["ih_l1_reverse"].columns, second(inside))
    assert {entry.count for entry in found.values()} == {21}


def test_a_projection_multiplies_what_it_makes_the_states_of():
    layer = recurrent(nn.LSTM, proj_size=3)
    x = random(7, 2, 4)
    moment = moments(Model(layer), [x], "layer.")["hr_l0"].columns
    weight = layer.weight_hr_l0
    torch.testing.assert_close(weight @ moment @ weight.T, second(layer(x)[0]))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_sequences_and_single_ones_are_calibrated_as_they_run(kind):
    layer = recurrent(kind, bidirectional=True)
    sequences = [random(5, 4), random(3, 4, seed=1), random(2, 4, seed=2)]
    alone = [moments(Model(layer), [sequence[:, None]], "layer.") for sequence in sequences]

    class Packing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, *given):
            return self.layer(pack_sequence(list(given)))[0].data

    together = moments(Packing(), [tuple(sequences)], "layer.")
    single = moments(Model(layer), [(random(1, 4)[0][None],)], "layer.")
    assert {entry.count for entry in single.values()} == {1}
    for name, entry in together.items():
        assert entry.count == 10
        expected = sum(own[name].columns * own[name].count for own in alone) / 10
        torch.testing.assert_close(entry.columns, expected)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.lstm = nn.LSTM(4, 6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, ids):
        return self.head(self.lstm(self.table(ids))[0])


IDS = torch.arange(14).view(2, 7) % 11


@pytest.mark.parametrize("mode", ["one-shot", "sequential"])
def test_a_model_with_a_recurrent_layer_is_calibrated(mode):
    torch.manual_seed(0)
    model = Tagger()
    data = [IDS, IDS[:, :4]]
    result = compress(model, GPTQ(4), norm=CalibratedNorms("full", mode=mode), data=data)
    names = ["table", *(f"lstm.{part}_l{i}" for i in (0, 1) for part in ("ih", "hh")), "head"]
    assert [layer.name for layer in result.layers] == names
    assert all(layer.norm == "full" for layer in result.layers[1:])
    assert {layer.kind for layer in result.layers[1:5]} == {"LSTM"}
    assert (result.model(IDS) - model(IDS)).abs().max() < 0.2


def test_statistics_are_kept_and_serve_any_choice(tmp_path):
    torch.manual_seed(0)
    model, norm = Tagger(), CalibratedNorms("full")
    sites, skipped = Select("*").split(model)
    assert not skipped
    norm.calibrate(model, sites, [IDS]).save(tmp_path / "s")
    data = Calibration.load(tmp_path / "s")
    for where in ("*", "lstm.*", "lstm.hh_l0", "head"):
        kept = compress(model, GPTQ(3), norm=norm, data=data, where=where)
        anew = compress(model, GPTQ(3), norm=norm, data=[IDS], where=where)
        assert torch.equal(kept.model(IDS), anew.model(IDS))


def test_a_choice_opens_only_what_it_takes(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.GRU(4, 6), "b": nn.GRU(4, 6)})
    result = compress(model, Quantization(8), where="a.hh_l0")
    assert type(result.model["b"]) is nn.GRU and dict(result.skipped).keys() == {
        "a.ih_l0",
        "b.ih_l0",
        "b.hh_l0",
    }
    assert torch.equal(result.model["a"].weight_ih_l0, model["a"].weight_ih_l0)
    assert result.model["a"].weight_hh_l0.shape == (18, 6)
    check(model, TruncatedSVD(rank=2), where=Select(kinds="GRU"))
    checkpoint.save(result.model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m", nn.ModuleDict({"a": nn.GRU(4, 6), "b": nn.GRU(4, 6)}))
    x = random(5, 2, 4).float()
    assert torch.equal(loaded["a"](x)[0], result.model["a"](x)[0])
    found = {site.name: (dense, own) for site, dense, own in pairs(model, result.model)}
    assert found.keys() == {"a.ih_l0", "a.hh_l0"}
    assert torch.equal(*found["a.ih_l0"]) and not torch.equal(*found["a.hh_l0"])


def test_weights_of_a_recurrent_layer_are_read_and_written_by_their_names():
    layer = recurrent(nn.LSTM)
    opened = open_weights(layer).model
    assert opened.weight_hh_l0 is layer.weight_hh_l0
    opened.weight_hh_l0 = nn.Parameter(torch.zeros(24, 6).double())
    assert not opened.hh_l0.weight.any() and layer.weight_hh_l0.any()
    compact = compress(layer, Quantization(4)).model
    with pytest.raises(ValueError, match="a write into it would be lost"):
        compact.weight_hh_l0 = torch.zeros(24, 6)
    assert copy.deepcopy(compact).float().weight_hh_l0.dtype == torch.float32


def test_a_recurrent_layer_with_code_of_its_own_is_left_and_said():
    class Dropping(nn.LSTM):
        def forward(self, x, hx=None):
            return super().forward(2 * x, hx)

    model = nn.ModuleDict({"a": Dropping(4, 6), "b": nn.Linear(4, 6)})
    result = compress(model, Quantization(8))
    assert [layer.name for layer in result.layers] == ["b"]
    assert {name for name, _ in result.skipped} == {"a.weight_ih_l0", "a.weight_hh_l0"}


def test_what_makes_a_weight_is_said_and_stays_where_nothing_is_compressed():
    torch.manual_seed(0)
    model = nn.Sequential(*(parametrizations.weight_norm(nn.Linear(6, 6)) for _ in range(2)))
    result = compress(model, Quantization(8), where="1")
    assert parametrize.is_parametrized(result.model[0])
    assert not parametrize.is_parametrized(result.model[1])
    assert result.layers[0].notes == (
        "decomposed is the weight that WeightNorm makes, which is gone",
    )
    frozen = model.requires_grad_(False)
    result = compress(frozen, TruncatedSVD(rank=2))
    assert not any(parameter.requires_grad for parameter in result.model.parameters())


def test_the_projections_of_attention_are_seen_as_they_are_called():
    attention = nn.MultiheadAttention(6, 2, kdim=4, vdim=5).double()
    x = random(7, 3, 6), random(8, 3, 4), random(8, 3, 5)
    found = moments(Model(attention), [x], "layer.")
    for name, inputs in zip(("q_proj", "k_proj", "v_proj"), x, strict=True):
        torch.testing.assert_close(found[name].columns, second(inputs))


def test_tied_recurrent_weights_stay_tied_and_a_layer_of_two_names_is_one():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.GRU(6, 6), "b": nn.GRU(6, 6)})
    model["c"], model["b"].weight_hh_l0 = model["a"], model["a"].weight_hh_l0
    result = compress(model, Quantization(8))
    assert [layer.name for layer in result.layers] == ["a.ih_l0", "a.hh_l0", "b.ih_l0"]
    assert result.layers[1].tied_to == ["b.hh_l0"]
    compact = result.model
    assert compact["a"] is compact["c"]
    assert compact["a"].hh_l0.factorization is compact["b"].hh_l0.factorization


def test_hooks_of_an_opened_layer_stay():
    layer, calls = recurrent(nn.LSTM), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    compress(layer, Quantization(8)).model(random(5, 2, 4))
    assert calls == [1]


def test_other_hooks_of_a_layer_stay_when_its_weight_norm_goes():
    with pytest.warns(FutureWarning):
        layer, calls = nn.utils.weight_norm(nn.Linear(4, 6)), []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    compact = compress(layer, TruncatedSVD(rank=2)).model
    compact(torch.randn(2, 4))
    assert calls == [1] and "weight_g" not in dict(compact.named_parameters())


@pytest.mark.parametrize("where", ["*", "0"])
@pytest.mark.parametrize("kind", ["new weight norm", "old weight norm", "recurrent"])
def test_a_file_has_what_was_opened_and_left_as_it_is(kind, where, tmp_path):
    """A weight of one row has no rank of 2, so nothing in its module is compressed."""

    def made():
        if kind == "recurrent":
            return nn.Sequential(nn.Linear(4, 4), nn.RNN(4, 1, bias=False)).eval()
        norm = parametrizations.weight_norm if kind == "new weight norm" else old_weight_norm
        return nn.Sequential(norm(nn.Linear(4, 4)), norm(nn.Linear(4, 1))).eval()

    result = compress(made(), TruncatedSVD(rank=2), where)
    assert bool(result.left) == (where == "*")
    checkpoint.save(result.model, tmp_path / "m")
    loaded, x = checkpoint.load(tmp_path / "m", made()), torch.randn(3, 4)
    torch.testing.assert_close(loaded(x), result.model(x), atol=0, rtol=0)


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)
