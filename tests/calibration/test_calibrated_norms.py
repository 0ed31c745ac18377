"""Which norm each weight gets, statistics that are kept, and those that do not fit."""

import copy
from collections import UserDict

import pytest
import torch
from made_tensors import single_by_sum as random
from safetensors.torch import save_file
from torch import nn

from lowrank.allocation import GlobalRank
from lowrank.calibration import Batches, CalibratedNorms, Calibration, IdentityNorms, Job
from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning, RandomPruning, TruncatedSVD
from lowrank.model.sites import find_sites
from lowrank.norms import Diagonal, Full, Identity
from lowrank.numerics.memo import MEMO, unchanging


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


DATA = [random(16, 6), random(16, 6, seed=1)]


def norms_of(model, norms, data=DATA, view="channel"):
    sites = find_sites(model)
    job = Job(model, model, sites, {site.name: view for site in sites}, data)
    return {site.name: norm for site, norm in norms.over(job)}


def test_every_moment_gives_its_norm():
    model = network()
    x = torch.cat(DATA).double()
    full = norms_of(model, CalibratedNorms("full", damping=0.0))["0"]
    assert isinstance(full, Full)
    torch.testing.assert_close(full.moment, x.T @ x / 32, rtol=1e-6, atol=1e-7)
    diagonal = norms_of(model, CalibratedNorms("diagonal", damping=0.0))["0"]
    assert isinstance(diagonal, Diagonal) and diagonal.columns is not None
    torch.testing.assert_close(diagonal.columns, x.square().mean(dim=0))
    milder = norms_of(model, CalibratedNorms("diagonal", damping=0.0, power=0.5))["0"]
    torch.testing.assert_close(milder.columns, diagonal.columns.sqrt())
    assert set(norms_of(model, IdentityNorms(), None).values()) == {Identity()}


def test_damping_is_a_share_of_the_mean():
    plain = norms_of(network(), CalibratedNorms("full", damping=0.0))["2"].moment
    damped = norms_of(network(), CalibratedNorms("full", damping=0.5))["2"].moment
    shift = 0.5 * plain.diagonal().mean()
    torch.testing.assert_close(damped, plain + shift * torch.eye(8, dtype=torch.float64))


class WithLoss(Batches):
    def loss(self, model, batch):
        return batch.run(model).square().mean()


def test_fisher_weighs_columns_and_outputs_weigh_rows():
    model, data = network(), WithLoss(DATA)
    fisher = norms_of(model, CalibratedNorms("fisher", damping=0.0), data)["2"]
    assert fisher.rows is None and fisher.columns.shape == (8,)
    both = norms_of(model, CalibratedNorms("full", damping=0.0, outputs=True), data)["2"]
    assert both.rows.shape == (4,) and both.moment.shape == (8, 8)


def test_a_kernel_is_weighed_in_the_view_of_its_method():
    model = nn.Sequential(nn.Conv2d(3, 4, (2, 3)))
    data = [random(2, 3, 6, 6)]
    channel = norms_of(model, CalibratedNorms("full", damping=0.0), data)["0"].moment
    last = norms_of(model, CalibratedNorms("full", damping=0.0), data, "channels_last")["0"].moment
    kernel = random(4, 3, 2, 3).double()
    assert Full(channel)(kernel.flatten(1)) == pytest.approx(
        Full(last)(kernel.permute(0, 2, 3, 1).flatten(1))
    )
    spatial = norms_of(model, CalibratedNorms("full", damping=0.0), data, "spatial")["0"].moment
    assert spatial.shape == (6, 6)
    # What kernel columns have in common is left out, so each counts as if it were alone.
    alone = torch.zeros_like(kernel)
    alone[..., 1] = kernel[..., 1]
    columns = [alone.roll(shift, dims=-1) for shift in (-1, 0, 1)]
    mean = sum(Full(channel)(k.flatten(1)) ** 2 for k in columns) / 3
    assert Full(spatial)(alone[..., 1].reshape(4, 6)) ** 2 == pytest.approx(mean)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(5, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.inner(self.table(ids)))


def test_a_tied_table_and_head_get_the_norm_of_both():
    model, ids = Tied(), torch.tensor([[0, 1, 1, 4], [2, 2, 2, 2]])
    norm = norms_of(model, CalibratedNorms("full", damping=0.0), [ids])["table"]
    hidden = model.inner(model.table(ids)).flatten(0, 1).detach().double()
    expected = hidden.T @ hidden / 8 / 2 + torch.eye(4, dtype=torch.float64) / 5 / 2
    torch.testing.assert_close(norm.moment, expected, rtol=1e-5, atol=1e-6)
    result = compress(model, TruncatedSVD(rank=2), norm=CalibratedNorms("full"), data=[ids])
    assert result.model.head.factorization is result.model.table.factorization
    assert "all 2 modules that share it" in " ".join(result.layers[0].notes)


def test_a_table_alone_counts_its_rows_by_their_frequency():
    model = nn.Sequential(nn.Embedding(5, 4))
    data = [torch.tensor([0, 1, 1, 4])]
    for moment in ("full", "diagonal"):
        norm = norms_of(model, CalibratedNorms(moment, damping=0.0), data)["0"]
        assert isinstance(norm, Diagonal) and norm.columns is None
        assert norm.rows.tolist() == [0.25, 0.5, 0, 0, 0.25]


def test_many_levels_of_a_model_that_stays_as_it_is_calibrate_once():
    model, runs = network(), []
    model[0].register_forward_hook(lambda *_: runs.append(1))
    unchanging(model)
    MEMO.clear()
    for rank in (1, 2, 3):
        compress(model, TruncatedSVD(rank=rank), where="0", norm=CalibratedNorms("full"), data=DATA)
    assert len(runs) == len(DATA)
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    compress(model, TruncatedSVD(rank=1), where="0", norm=CalibratedNorms("full"), data=DATA)
    assert len(runs) == 2 * len(DATA)


class Scaled(nn.Module):
    """Layers on a buffer's multiple of the input."""

    def __init__(self, scale: float, names: tuple[str, ...] = ("first", "second")) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        for name in names:
            self.add_module(name, nn.Linear(6, 6, bias=False))
            nn.init.eye_(self.get_submodule(name).weight)

    def forward(self, x, shift=0.0):
        for layer in self.children():
            x = layer(self.scale * x + shift)
        return x


def tied(model: nn.Module) -> nn.Module:
    model.second.weight = model.first.weight
    return model


@pytest.mark.parametrize(
    "one, other",
    [
        (network(), nn.Sequential(network()[0], nn.Tanh(), network()[2])),
        (Scaled(1.0), Scaled(2.0)),
        (Scaled(1.0), tied(Scaled(1.0))),
    ],
    ids=["activation", "buffer that is not saved", "tied"],
)
def test_equal_weights_do_not_make_equal_statistics(one, other):
    both = [
        CalibratedNorms("full").calibrate(model, find_sites(model), DATA) for model in (one, other)
    ]
    assert both[0].source["model"] != both[1].source["model"]
    assert both[0].statistics is not both[1].statistics


A, B = random(4, 6), random(4, 6, seed=1)


@pytest.mark.parametrize(
    "one, other",
    [
        ([A, B], [(A, B)]),
        ([{"x": A, "shift": B}], [{"shift": A, "x": B}]),
        ([A], [B]),
        ([A], [A, A]),
        ([(A, 1)], [(A, 2)]),
        ([UserDict(x=torch.zeros(40, 40))], [UserDict(x=torch.eye(40))]),
        ([{"x": A, "attention_mask": A > 0}], [{"x": A, "mask": A > 0}]),
    ],
)
def test_different_data_are_told_apart(one, other):
    assert Batches(one).fingerprint() != Batches(other).fingerprint()
    assert Batches(one).fingerprint() == Batches(copy.deepcopy(one)).fingerprint()


def test_data_of_another_kind_are_told_apart():
    assert WithLoss(DATA).fingerprint() != Batches(DATA).fingerprint()


def test_data_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="calibration data hold a ndarray.*give tensors"):
        Batches([A.numpy()]).fingerprint()


def test_statistics_are_kept_in_a_file(tmp_path):
    model, norms = network(), CalibratedNorms("full", outputs=True)
    calibration = norms.calibrate(model, find_sites(model), WithLoss(DATA))
    calibration.save(tmp_path / "statistics.safetensors")
    loaded = Calibration.load(tmp_path / "statistics.safetensors")
    assert loaded.source == calibration.source
    for name, entry in calibration.statistics.items():
        assert torch.equal(loaded.statistics[name].columns, entry.columns)
        assert torch.equal(loaded.statistics[name].rows, entry.rows)
        assert loaded.statistics[name].count == entry.count
    method = TruncatedSVD(rank=2)
    direct = compress(model, method, norm=norms, data=WithLoss(DATA))
    kept = compress(model, method, norm=norms, data=loaded)
    x = random(3, 6)
    assert torch.equal(direct.model(x), kept.model(x))


def test_shared_statistics_are_written_once(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(64, 2), nn.Linear(64, 2)

        def forward(self, x):
            return self.first(x) + self.second(x)

    model = Pair()
    calibration = CalibratedNorms("full").calibrate(model, find_sites(model), [random(8, 64)])
    calibration.save(tmp_path / "pair")
    assert (tmp_path / "pair").stat().st_size < 1.5 * 8 * 64**2
    loaded = Calibration.load(tmp_path / "pair").statistics
    assert loaded["first"].columns is loaded["second"].columns


def test_statistics_of_another_model_kind_or_layer_are_refused():
    model, norms = network(), CalibratedNorms("full")
    calibration = norms.calibrate(model, find_sites(model), DATA)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].bias += 1
    with pytest.raises(ValueError, match="differ from what is wanted in model"):
        compress(other, TruncatedSVD(rank=1), norm=norms, data=calibration)
    with pytest.raises(ValueError, match="differ from what is wanted in moment"):
        compress(model, TruncatedSVD(rank=1), norm=CalibratedNorms("diagonal"), data=calibration)
    first = norms.calibrate(model, find_sites(model)[:1], DATA)
    with pytest.raises(ValueError, match=r"none of the layers \['2'\]"):
        compress(model, TruncatedSVD(rank=1), norm=norms, data=first)
    with pytest.raises(ValueError, match="while it is compressed"):
        sequential = CalibratedNorms("full", mode="sequential")
        compress(model, TruncatedSVD(rank=1), norm=sequential, data=calibration)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "broken").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        Calibration.load(tmp_path / "broken")
    save_file({"x": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="holds no statistics"):
        Calibration.load(tmp_path / "other")


def test_statistics_with_nan_are_not_used():
    model, norms = network(), CalibratedNorms("full")
    calibration = norms.calibrate(model, find_sites(model), DATA)
    broken = calibration.statistics["2"].columns.clone()
    broken[1, 2] = broken[2, 1] = float("nan")
    statistics = {
        **calibration.statistics,
        "2": calibration.statistics["2"]._replace(columns=broken),
    }
    data = Calibration(statistics, calibration.source)
    result = compress(model, TruncatedSVD(rank=1), norm=norms, data=data)
    assert result.left == [
        ("2", "layer '2': 2 entries of a second moment are NaN or infinite: calibrate anew")
    ]


class Idle(nn.Module):
    """A layer whose inputs are always one value, beside one that has others."""

    def __init__(self, value: float):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.value = value

    def forward(self, x):
        constant = torch.full_like(x, self.value)
        return self.blocks[0](x) + self.blocks[1](constant).nan_to_num()


@pytest.mark.parametrize("mode", ["one-shot", "sequential"])
@pytest.mark.parametrize("moment", ["diagonal", "full"])
@pytest.mark.parametrize(("value", "why"), [(0.0, "zero"), (float("inf"), "NaN or infinite")])
def test_a_layer_of_which_the_data_say_nothing_ends_nothing(mode, moment, value, why):
    norm = CalibratedNorms(moment, mode=mode)
    result = compress(Idle(value), TruncatedSVD(rank=2), norm=norm, data=[torch.randn(9, 6)])
    assert [layer.name for layer in result.layers] == ["blocks.0"]
    assert result.left[0][0] == "blocks.1" and why in result.left[0][1]
    with pytest.raises(ValueError, match=f"layer 'blocks.1': .*{why}"):
        compress(Idle(value), TruncatedSVD(2), norm=norm, data=[torch.randn(9, 6)], strict=True)


def test_what_does_not_fit_is_found_before_any_work():
    model = network()
    model.register_forward_hook(lambda *_: pytest.fail("the model was run"))
    with pytest.raises(ValueError, match="needs calibration data"):
        compress(model, TruncatedSVD(rank=1), norm=CalibratedNorms("full"))
    with pytest.raises(ValueError, match="RandomPruning cannot approximate in the norm Full"):
        compress(model, RandomPruning(0.5), norm=CalibratedNorms("full"), data=DATA)
    with pytest.raises(ValueError, match="MagnitudePruning cannot approximate in the norm Full"):
        compress(model, MagnitudePruning(0.5), norm=CalibratedNorms("full"), data=DATA)
    with pytest.raises(ValueError, match="GlobalRank cannot approximate in the norm Diagonal"):
        compress(model, GlobalRank(2), norm=CalibratedNorms("diagonal"), data=DATA)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"moment": "half"}, "moment='half' must be one of"),
        ({"moment": "full", "mode": "twice"}, "mode='twice' must be one of"),
        ({"moment": "full", "damping": -0.1}, "damping=-0.1 must be at least 0"),
        ({"moment": "full", "power": 0.5}, "power=0.5 is for a diagonal"),
        ({"moment": "diagonal", "power": 0}, "power=0 must lie in"),
        ({"moment": "full", "batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"moment": "fisher", "mode": "sequential"}, "stops each pass at its block"),
        ({"moment": "full", "outputs": True, "mode": "sequential"}, "stops each pass"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        CalibratedNorms(**settings)


class Holding(nn.Module):
    """`table` is never called: two others share its weight, one in a block."""

    def __init__(self, is_held: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        kept = nn.Embedding(9, 4)
        if is_held:
            self.table = kept
        self.blocks = nn.ModuleList([nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))])
        self.head = nn.Linear(4, 9, bias=False)
        self.blocks[0][0].weight = self.head.weight = kept.weight

    def forward(self, x):
        return self.head(self.blocks[0](x))


@pytest.mark.parametrize("mode", ["one-shot", "sequential"])
@pytest.mark.parametrize("moment", ["full", "diagonal"])
def test_a_module_that_only_holds_a_weight_for_others_changes_nothing(mode, moment):
    norm = CalibratedNorms(moment, mode=mode)
    batches = [torch.tensor([[0, 1, 4], [2, 4, 4]])]
    held, plain = (
        compress(Holding(is_held), TruncatedSVD(rank=1), norm=norm, data=batches)
        for is_held in (True, False)
    )
    assert held.layers[0].tied_to == ["blocks.0.0", "head"]
    assert [layer.norm_error for layer in held.layers] == [one.norm_error for one in plain.layers]
    assert torch.equal(held.model(batches[0]), plain.model(batches[0]))
