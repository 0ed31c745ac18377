"""The best split of a budget over the layers of a model."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lowrank.allocation import (
    Budget,
    MixedAllocation,
    NormError,
    Sensitivity,
    grid,
    progress,
    resources,
)
from lowrank.allocation.allocation import Problem
from lowrank.allocation.analysis import Option, analyse, dense_costs
from lowrank.allocation.losses import OutputDistance, interpolate, spread
from lowrank.allocation.mixed_allocation import pays
from lowrank.calibration import CalibratedNorms, IdentityNorms
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    GPTQ,
    LoRA,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
    Uncompressed,
)
from lowrank.factorizations import Dense
from lowrank.measure.macs import macs
from lowrank.measure.size import nbytes, params
from lowrank.model.select import Select
from lowrank.numerics.memo import MEMO, unchanging

CANDIDATES = (
    grid(Quantization, {"bits": [2, 3, 4, 8], "group_size": [8, 16]}),
    grid(MagnitudePruning, {"sparsity": [0.5, 0.8]}),
    [TruncatedSVD(rank=4), TruncatedSVD(rank=8)],
)


class Unmade(Quantization):
    """A candidate that is not to be made."""

    def _decompose(self, weight, norm):
        raise AssertionError("the candidate was made")


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 32), nn.ReLU(), nn.Linear(32, 16)]
    return nn.Sequential(*layers).eval()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(24, 24, generator=generator)
    return [torch.randn(16, 24, generator=generator) @ mixing for _ in range(4)]


@pytest.mark.parametrize("ratio", [1.1, 1.5, 2, 3, 4, 6, 7])
def test_the_budget_is_met_to_the_byte(model, data, ratio):
    result = compress(model, MixedAllocation(CANDIDATES, Budget(ratio=ratio)), data=data)
    said = result.allocation
    assert nbytes(result.model) <= nbytes(model) / ratio
    rest = nbytes(model) - sum(layer.weight.nbytes for layer in model if hasattr(layer, "weight"))
    assert nbytes(result.model) == rest + said["spent"]
    assert said["unspent"] == pytest.approx(nbytes(model) / ratio - nbytes(result.model))
    assert said["bound"] <= said["loss"]


def test_by_the_norm_it_is_the_best_of_all_choices(model):
    candidates = [Quantization(bits=2), Quantization(bits=5), TruncatedSVD(rank=3)]
    limit = 4000
    mix = MixedAllocation(candidates, Budget(limit=limit, of="layers"), NormError(), rivals=0)
    result = compress(model, mix)
    weights = [layer.weight.detach() for layer in model if isinstance(layer, nn.Linear)]
    totals = []
    for choice in itertools.product([None, *candidates], repeat=3):
        size, error = 0, 0.0
        for weight, decomposer in zip(weights, choice, strict=True):
            made = None if decomposer is None else decomposer.decompose(weight)
            size += weight.nbytes if made is None else nbytes(made)
            error += (
                0 if made is None else float((weight - made.to_dense()).detach().square().sum())
            )
        if size <= limit:
            totals.append(error)
    assert result.allocation["loss"] == pytest.approx(min(totals), rel=1e-5)
    assert result.allocation["solver"] in ("exact", "greedy")


def test_a_layer_may_stay_as_it_is_and_counts_all_the_same(model):
    result = compress(
        model, MixedAllocation([Quantization(bits=1)], Budget(ratio=1.2), NormError(), rivals=0)
    )
    kept = [layer for layer in result.layers if layer.decomposer == "Uncompressed()"]
    assert kept and len(result.layers) == 3
    assert all(layer.bits_per_weight == 32 and layer.norm_error == 0 for layer in kept)
    for layer in kept:
        index = int(layer.name)
        assert torch.equal(result.model[index].factorization.to_dense(), model[index].weight)


def test_one_analysis_serves_all_budgets(model, data):
    MEMO.clear()
    unchanging(model)
    norm = CalibratedNorms("full")
    mixes = [
        MixedAllocation([CANDIDATES[2], GPTQ(bits=4)], Budget(ratio=r)) for r in (3, 3.5, 4, 5)
    ]
    compress(model, mixes[0], norm=norm, data=data)
    misses = MEMO.misses
    for mix in mixes[1:]:
        compress(model, mix, norm=norm, data=data)
    assert MEMO.misses == misses


def test_in_sequence_the_choice_is_made_first_and_decomposed_anew():
    torch.manual_seed(0)
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)))
    data = [torch.randn(32, 8)]
    norm = CalibratedNorms("full", mode="sequential")
    mix = MixedAllocation(
        [GPTQ(bits=2), GPTQ(bits=4)], Budget(ratio=6, of="layers"), NormError(), rivals=0
    )
    result = compress(blocks, mix, norm=norm, data=data)
    # As by hand, with what it chose, each block on the outputs of those before.
    chosen = {layer.name: int(layer.decomposer[len("GPTQ(bits=")]) for layer in result.layers}
    by_hand = compress(blocks, {n: GPTQ(bits=b) for n, b in chosen.items()}, norm=norm, data=data)
    assert torch.equal(result.model(data[0]), by_hand.model(data[0]))
    assert result.calibration["mode"] == "sequential"


@pytest.mark.parametrize("resource", ["params", "macs"])
def test_other_budgets(model, data, resource):
    count = {"params": lambda m: params(m), "macs": lambda m: macs(m, (data[0][:1],))}[resource]
    mix = MixedAllocation(CANDIDATES, Budget(ratio=2, resource=resource), NormError(), rivals=0)
    result = compress(model, mix, example=(data[0][:1],))
    assert count(result.model) <= count(model) / 2
    assert result.allocation["spent"] <= result.allocation["allowed"]


def test_a_budget_of_macs_is_of_its_own_example():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.often, self.seldom = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x, y):
            return self.often(x), self.seldom(y)

    torch.manual_seed(0)
    model, few, many = Two(), torch.randn(1, 1, 32), torch.randn(1, 50, 32)
    mix = MixedAllocation(
        [TruncatedSVD(rank=r) for r in (1, 4, 8)], Budget(ratio=2, resource="macs"), NormError()
    )
    for example in ((few, many), (many, few)):
        result = compress(model, dataclasses.replace(mix, rivals=0), example=example)
        assert macs(result.model, example) <= macs(model, example) / 2


def test_layers_may_be_called_with_arguments_by_name():
    # It hands its attention masks by name, which PyTorch's attention takes in another order.
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    example = (torch.randn(1, 5, 16),)
    mix = MixedAllocation(
        [TruncatedSVD(rank=2)], Budget(ratio=1.5, resource="macs"), NormError(), rivals=0
    )
    result = compress(model, mix, where=["self_attn", "linear*"], example=example)
    assert macs(result.model, example) <= macs(model, example) / 1.5


def test_costs_that_are_run_leave_no_dense_copies(model, data):
    problem = Problem(model, Select().split(model)[0], IdentityNorms(), None, (data[0][:1],))
    analysis = analyse(problem, [Quantization(bits=4)], dense_costs(problem, "macs"))
    forms = [option.factorization for of in analysis.options.values() for option in of[1:]]
    assert all(form is not None and form._derived is None for form in forms)


def test_a_budget_of_time_is_kept_as_measured():
    model, example = (
        nn.Sequential(nn.Linear(768, 768), nn.Linear(768, 768)),
        (torch.randn(256, 768),),
    )
    mix = MixedAllocation(
        [TruncatedSVD(rank=2)],
        Budget(ratio=1.2, resource="latency", of="layers"),
        NormError(),
        rivals=0,
    )
    said = compress(model, mix, example=example).allocation
    assert 0 < said["spent"] <= said["allowed"]
    # In seconds: two products of 256 × 768 × 768 take neither nanoseconds nor minutes.
    assert 1e-6 < said["allowed"] < 10


def test_where_the_sum_misleads_the_better_uniform_choice_is_taken(model, data, monkeypatch):
    mix = MixedAllocation(CANDIDATES, Budget(ratio=4), rivals=2)
    honest = compress(model, mix, data=data).allocation
    assert honest["distances"][honest["chosen"]] == min(honest["distances"].values())
    assert len(honest["distances"]) == 3
    # A mix that turns out worse than its rivals is given up.
    distance = OutputDistance.of
    calls = itertools.count()

    def pessimistic(self, options):
        return 1e9 if len(options) == 3 and next(calls) == 0 else distance(self, options)

    monkeypatch.setattr(OutputDistance, "of", pessimistic)
    result = compress(model, mix, data=data)
    assert result.allocation["chosen"] != "mix"
    assert nbytes(result.model) <= nbytes(model) / 4
    assert len({layer.decomposer for layer in result.layers}) == 1


def test_a_rival_leaves_dense_what_it_would_not_make_smaller(model, data):
    mix = MixedAllocation([MagnitudePruning(0.01), Quantization(bits=3)], Budget(ratio=5), rivals=2)
    question_budget = compress(model, mix, data=data).allocation
    assert question_budget["spent"] <= question_budget["allowed"]
    dense = Option(Uncompressed(), None, 100, 0.0, 1.0)
    larger = Option(Quantization(bits=8), None, 100, 0.5, 1.0)
    assert not pays(larger, Quantization(bits=8), dense)
    assert pays(larger._replace(cost=99), Quantization(bits=8), dense)
    assert not pays(larger._replace(cost=99), Quantization(bits=3), dense)


class TestSensitivity:
    def test_it_is_the_distance_with_that_layer_alone_replaced(self, model, data):
        problem = Problem(model, Select().split(model)[0], IdentityNorms(), data)
        options = analyse(problem, [Quantization(bits=3)], dense_costs(problem, "bytes")).options
        losses = Sensitivity(examples=None).of(problem, options)
        for name, values in losses.items():
            alone = compress(model, {name: Quantization(bits=3)}).model
            with torch.no_grad():
                x = torch.cat(data)
                ratio = (alone(x) - model(x)).square().sum() / model(x).square().sum()
            assert values[0] == 0
            assert values[1] == pytest.approx(float(ratio), rel=1e-4)

    def test_the_model_is_left_as_it_was(self, model, data):
        problem = Problem(model, Select().split(model)[0], IdentityNorms(), data)
        options = analyse(problem, [Quantization(bits=3)], dense_costs(problem, "bytes")).options
        before = model(data[0])
        distance = OutputDistance(problem, None, 8)
        assert distance.of({"0": options["0"][1]}) > 0
        assert distance.of({}) == 0
        assert torch.equal(model(data[0]), before)

    def test_tied_weights_are_replaced_together(self, data):
        shared = nn.Linear(24, 24)
        model = nn.Sequential(shared, nn.ReLU(), nn.Linear(24, 24, bias=False))
        model[2].weight = shared.weight
        problem = Problem(model, Select().split(model)[0], IdentityNorms(), data)
        options = analyse(problem, [Quantization(bits=2)], dense_costs(problem, "bytes")).options
        found = OutputDistance(problem, None, 8).of({"0": options["0"][1]})
        alone = compress(model, Quantization(bits=2)).model
        with torch.no_grad():
            x = torch.cat(data)
            ratio = (alone(x) - model(x)).square().sum() / model(x).square().sum()
        assert found == pytest.approx(float(ratio), rel=1e-4)

    def test_between_probes_it_follows_the_error(self, model, data):
        problem = Problem(model, Select().split(model)[0], IdentityNorms(), data)
        candidates = grid(Quantization, {"bits": [2, 3, 4, 5, 6, 7, 8]})
        options = analyse(problem, candidates, dense_costs(problem, "bytes")).options
        full = Sensitivity(examples=None).of(problem, options)
        probed = Sensitivity(examples=None, probes=3).of(problem, options)
        for name in full:
            assert probed[name] == pytest.approx(full[name], rel=0.5)
            assert sum(a == b for a, b in zip(full[name], probed[name], strict=True)) >= 4

    def test_interpolation_is_exact_on_powers(self):
        errors = [0.0, 1e-4, 1e-3, 1e-2, 1e-1]
        losses = [0.0, 3e-8, 0.0, 0.0, 3e-2]
        interpolate(losses, errors, [1, 4], [1, 2, 3, 4])
        assert losses == pytest.approx([0, 3e-8, 3e-6, 3e-4, 3e-2])

    def test_probes_are_spread_over_the_errors(self):
        errors = [1e-6, 1e-5, 1.1e-5, 1e-4, 1e-3, 1e-2]
        options = [Option(Uncompressed(), None, 1, error, 1.0) for error in errors]
        assert spread(options, range(6), 3) == [0, 3, 5]


class TestBadInput:
    def test_no_candidates(self):
        with pytest.raises(ValueError, match="must name at least one decomposer"):
            MixedAllocation([], Budget(ratio=2))
        with pytest.raises(ValueError, match="must name at least one decomposer"):
            MixedAllocation([[]], Budget(ratio=2))

    def test_what_is_no_decomposer(self):
        with pytest.raises(ValueError, match="candidates must be decomposers, got 3"):
            MixedAllocation([Quantization(bits=2), 3], Budget(ratio=2))

    def test_a_candidate_of_no_layer(self, model):
        with pytest.raises(ValueError, match=r"TruncatedSVD\(rank=99.* fits none of the 3 layers"):
            compress(
                model,
                MixedAllocation([TruncatedSVD(rank=99)], Budget(ratio=2), NormError(), rivals=0),
            )

    def test_a_candidate_of_some_layers_is_left_out_of_the_others_and_counted(self, model):
        candidates = [TruncatedSVD(rank=20), Quantization(bits=8)]
        mix = MixedAllocation(candidates, Budget(ratio=2), NormError(), rivals=0)
        assert compress(model, mix).allocation["refused"] == 1

    def test_a_budget_below_the_smallest(self, model):
        text = r"smallest candidates take [\d,]+ bytes: the smallest budget .* a ratio of 3\.\d+"
        with pytest.raises(ValueError, match=text):
            compress(
                model,
                MixedAllocation([Quantization(bits=8)], Budget(ratio=8), NormError(), rivals=0),
            )

    def test_a_budget_that_needs_no_compression(self, model):
        mix = MixedAllocation([Quantization(bits=8)], Budget(ratio=1), NormError(), rivals=0)
        with pytest.raises(ValueError, match="allows the model as it is"):
            compress(model, mix)

    @pytest.mark.parametrize("resource", ["bytes", "latency"])
    def test_a_ratio_of_one_is_no_budget(self, model, resource):
        mix = MixedAllocation(CANDIDATES, Budget(ratio=1, resource=resource), NormError(), rivals=0)
        with pytest.raises(ValueError, match="allows the model as it is"):
            compress(model, mix, example=(torch.randn(1, 24),))

    @pytest.mark.parametrize(
        ("budget", "least"),
        [
            (Budget(ratio=9), r"a ratio of 3\.\d+\."),
            (Budget(limit=2500), r"a limit of [\d,]+ bytes\."),
            (Budget(bits_per_weight=2), r"8\.\d+ bits per weight\."),
        ],
    )
    def test_the_smallest_budget_is_named_in_the_way_it_was_given(self, model, budget, least):
        mix = MixedAllocation([Quantization(bits=8)], budget, NormError(), rivals=0)
        with pytest.raises(ValueError, match="the smallest budget that can be met is " + least):
            compress(model, mix)

    def test_candidates_that_save_nothing(self, model):
        mix = MixedAllocation([LoRA(rank=2, alpha=2)], Budget(ratio=2), NormError(), rivals=0)
        with pytest.raises(ValueError, match="none takes less than the layer that it stands for"):
            compress(model, mix)

    @pytest.mark.parametrize("ratio", [1, 1e6])
    def test_what_cannot_be_is_refused_before_anything_is_computed(self, model, ratio):
        mix = MixedAllocation([Unmade(bits=2)], Budget(ratio=ratio), NormError(), rivals=0)
        with pytest.raises(ValueError, match="budget"):
            compress(model, mix)

    def test_a_time_budget_without_an_example(self, model):
        mix = MixedAllocation(
            CANDIDATES, Budget(ratio=2, resource="latency"), NormError(), rivals=0
        )
        with pytest.raises(ValueError, match="a budget of latency needs the inputs of one example"):
            compress(model, mix)

    @pytest.mark.parametrize("missing", ["loss", "rivals"])
    def test_missing_data_are_noticed_before_anything_is_computed(self, model, missing):
        loss = Sensitivity() if missing == "loss" else NormError()
        mix = MixedAllocation(
            [Unmade(bits=2)], Budget(ratio=2), loss, rivals=int(missing == "rivals")
        )
        with pytest.raises(ValueError, match=r"NormError\(\) and, of a MixedAllocation, rivals=0"):
            compress(model, mix)

    def test_a_candidate_whose_outputs_are_no_numbers(self):
        class Log(nn.Module):
            def forward(self, x):
                return x.log()

        class Negated(Quantization):
            def _decompose(self, weight, norm):
                return Dense(-weight)

        model = nn.Sequential(nn.Linear(16, 16), Log()).eval()
        model[0].weight.data.abs_()
        model[0].bias.data.fill_(1)
        data = [torch.rand(8, 16)]
        assert bool(model(data[0]).isfinite().all())
        mix = MixedAllocation([Negated(bits=3), Quantization(bits=8)], Budget(ratio=2))
        with pytest.raises(ValueError, match="layer '0': a candidate's loss is inf"):
            compress(model, mix, data=data)

    def test_a_loss_that_is_negative(self, model):
        class Negative(NormError):
            def of(self, problem, options):
                return {name: [-1.0] * len(found) for name, found in options.items()}

        with pytest.raises(ValueError, match="layer '0': a candidate's loss is -1"):
            compress(model, MixedAllocation(CANDIDATES, Budget(ratio=2), Negative(), rivals=0))

    def test_macs_of_a_weight_that_attention_reads(self):
        model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        mix = MixedAllocation(
            CANDIDATES[0], Budget(ratio=2, resource="macs"), NormError(), rivals=0
        )
        with pytest.raises(ValueError, match="are not called by themselves"):
            compress(model, mix, example=(torch.randn(1, 4, 16),))

    def test_a_candidate_that_does_not_know_the_norm(self, model, data):
        mix = MixedAllocation(
            [GPTQ(bits=3), Quantization(bits=3)], Budget(ratio=2), NormError(), rivals=0
        )
        with pytest.raises(ValueError, match="Quantization cannot approximate in the norm"):
            compress(model, mix, norm=CalibratedNorms("full"), data=data)


def test_a_grid_is_all_combinations():
    made = grid(functools.partial(Quantization, scale="mse"), {"bits": [2, 3], "group_size": [8]})
    assert made == [
        Quantization(bits=2, group_size=8, scale="mse"),
        Quantization(bits=3, group_size=8, scale="mse"),
    ]


def test_a_limit_and_its_options_are_of_one_measurement(model, monkeypatch):
    MEMO.clear()
    unchanging(model)
    seconds = [1e-3]

    def timed(dense, layer, inputs):
        share = 1.0 if dense is layer else 0.5
        return SimpleNamespace(dense_s=seconds[0], compressed_s=seconds[0] * share)

    monkeypatch.setattr(resources, "_seconds", timed)
    budget = Budget(ratio=1.5, resource="latency", of="layers")
    mix = MixedAllocation([TruncatedSVD(rank=2)], budget, NormError(), rivals=0)
    example = (torch.randn(1, 24),)
    first = compress(model, mix, example=example).allocation
    # Costs are forgotten before what was made of them, and then measured on a slower machine.
    for key in [key for key in MEMO._store if key[0] == "costs"]:
        MEMO._bytes -= MEMO._store.pop(key)[0]
    seconds[0] = 4e-3
    second = compress(model, mix, example=example).allocation
    assert second["spent"] == pytest.approx(4 * first["spent"])
    assert second["allowed"] == pytest.approx(4 * first["allowed"])


def test_long_work_gives_signs_of_life(monkeypatch, caplog):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level("INFO", logger="lowrank"):
        assert list(progress.reported("abcdef", 6, "letters")) == list("abcdef")
    # 20, 20 and 20 seconds after the line before, on a clock that moves 10 when it is read.
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"letters: {done} of 6" for done in (1, 3, 5)]
