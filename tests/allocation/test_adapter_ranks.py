"""Ranks of adapters by the spectra of gradients: the best update of first order, and budgets."""

import itertools

import pytest
import torch
from digits_task import TASK
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from torch import nn

import lowrank
from lowrank import measure
from lowrank.allocation import AdapterRanks
from lowrank.allocation.adapter_ranks import energies, shares
from lowrank.decomposers import DoRA, LoRA, LoRAXS, Quantization, SharedLoRA, VeRA
from lowrank.factorizations import adapters
from lowrank.model.factorized import FactorizedLayer
from lowrank.numerics.marginal_gains import by_marginal_gain

METHOD = AdapterRanks(LoRA(2, 4))


def gradients() -> dict[str, torch.Tensor]:
    """Of the mean loss over the calibration split, by autograd at once."""
    model, split = TASK.model(), TASK.split("calibration")
    (batch,) = split.batches(len(split))
    TASK.loss(TASK.forward(model, batch), batch.targets).backward()
    return {name: model.get_submodule(name).weight.grad for name in ("fc1", "fc2")}


@pytest.mark.parametrize("score", ["gradient", "weight"])
def test_the_ranks_are_the_best_for_the_energy_of_what_is_scored(score):
    model, data = TASK.model(), TASK if score == "gradient" else None
    method = AdapterRanks(LoRA(2, 4), score=score)
    result = lowrank.compress(model, method, data=data, norm="identity")
    found = result.allocation
    weights = {name: model.get_submodule(name).weight.detach() for name in ("fc1", "fc2")}
    scored = gradients() if score == "gradient" else weights
    spectra = {n: torch.linalg.svdvals(g.double()).square() for n, g in scored.items()}
    if score == "gradient":
        spectra = {name: own / own.sum() for name, own in spectra.items()}
    prices, budget = {"fc1": 64 + 16, "fc2": 16 + 10}, 2 * (80 + 26)
    choices = [
        (float(spectra["fc1"][:one].sum() + spectra["fc2"][:other].sum()), one, other)
        for one, other in itertools.product(range(1, 17), range(1, 11))
        if one * prices["fc1"] + other * prices["fc2"] <= budget
    ]
    kept, one, other = max(choices)
    assert found["ranks"] == {"fc1": one, "fc2": other}
    assert found["kept_energy"] == pytest.approx(kept / float(sum(map(sum, spectra.values()))))
    assert found["kept_energy_by_one_rank"] <= found["kept_energy"]
    forms = {layer.name: result.model.get_submodule(layer.name) for layer in result.layers}
    trained = sum(measure.trainable_params(form.factorization) for form in forms.values())
    assert trained == found["params"] <= found["budget"] == budget


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(0, 100))
def test_no_update_of_as_many_ranks_lowers_the_loss_faster(count, seed):
    """Σ ⟨G, ΔW⟩ is at most the length of the update times the root of the kept energy."""
    matrices = [random(6, 8, seed=seed), 3 * random(8, 6, seed=seed + 1), random(4, 10, seed=seed)]
    gains = [shares(energies(matrix, matrix)) for matrix in matrices]
    ranks = by_marginal_gain(gains, [[14] * len(own) for own in gains], 14 * count)
    kept = sum(sum(own[:rank]) for own, rank in zip(gains, ranks, strict=True)) ** 0.5

    def slope(updates: list[torch.Tensor]) -> float:
        """Of steps in units of 1/‖gradient‖."""
        steps = [u / g.square().sum() for g, u in zip(matrices, updates, strict=True)]
        lengths = [u.norm() * g.norm() for g, u in zip(matrices, steps, strict=True)]
        fall = sum(float((g * u).sum()) for g, u in zip(matrices, steps, strict=True))
        return fall / float(torch.stack(lengths).norm())

    def cut(matrix: torch.Tensor, rank: int) -> torch.Tensor:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, :rank] * s[:rank] @ vh[:rank]

    assert slope(list(map(cut, matrices, ranks))) == pytest.approx(kept)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        others, left = [0, 0, 0], sum(ranks)
        while left:
            place = int(torch.randint(3, (), generator=generator))
            if others[place] < min(matrices[place].shape):
                others[place], left = others[place] + 1, left - 1
        assert slope(list(map(cut, matrices, others))) <= kept * (1 + 1e-9)
        noisy = [m + torch.randn(m.shape, generator=generator).double() for m in matrices]
        assert slope(list(map(cut, noisy, others))) <= kept * (1 + 1e-9)


@pytest.mark.parametrize(
    "adapter",
    [
        LoRA(2, 4, scaling="alpha/sqrt(rank)"),
        DoRA(LoRA(2, 4)),
        LoRAXS(3, 6),
        SharedLoRA(2, 4),
        SharedLoRA(2, 4, side="right", base=Quantization(4)),
    ],
    ids=str,
)
def test_every_adapter_keeps_its_budget_and_its_scale(adapter):
    rule = AdapterRanks(adapter, score="weight")
    result = lowrank.compress(TASK.model(), rule)
    forms = [result.model.get_submodule(layer.name).factorization for layer in result.layers]
    trained = sum(map(measure.trainable_params, forms))
    assert 0.5 * result.allocation["budget"] < trained == result.allocation["params"]
    assert trained <= result.allocation["budget"]
    scales = {part.scale for form in forms for part in adapters(form) if hasattr(part, "scale")}
    wanted = adapter.adapter if isinstance(adapter, DoRA) else adapter
    assert all(scale == pytest.approx(getattr(wanted, "scale", 1.0)) for scale in scales)


@pytest.mark.parametrize("score", ["gradient", "weight"])
def test_the_budget_is_one_that_the_adapter_can_spend_with_one_rank(score):
    """Rank 12 does not fit the 10 rows of fc2, which stays as it is in a uniform compression."""
    adapter = LoRA(12, 24)
    rule = AdapterRanks(adapter, score=score)
    data = TASK if score == "gradient" else None
    found = lowrank.compress(TASK.model(), rule, data=data, norm="identity").allocation
    uniform = lowrank.compress(TASK.model(), adapter, norm="identity").model
    spent = measure.trainable_params(uniform.fc1.factorization)
    assert not isinstance(uniform.fc2, FactorizedLayer)
    assert found["params"] <= found["budget"] == spent == 12 * 80
    assert found["unfit"] == ["fc2"] and found["ranks"]["fc2"] >= 1
    fitting = lowrank.compress(TASK.model(), METHOD, data=TASK, norm="identity").allocation
    assert "unfit" not in fitting
    with pytest.raises(ValueError, match=r"fits none of the layers \['fc1', 'fc2'\].*lower rank"):
        lowrank.check(TASK.model(), AdapterRanks(LoRA(17, 34), score=score))


def test_a_base_at_its_nearest_level_counts():
    base = Quantization(4, group_size=16)
    rule = AdapterRanks(LoRA(2, 4, base=base), score="weight")
    found = lowrank.compress(TASK.model(), rule).allocation
    assert found["budget"] == 2 * (80 + 26) and "unfit" not in found


@pytest.mark.parametrize("base", [None, Quantization(4)])
def test_a_layer_without_a_rank_stays_as_its_base(base):
    model = TASK.model()
    with torch.no_grad():
        model.fc1.weight *= 100
    rule = AdapterRanks(LoRA(2, 4, base=base), 90, "weight", least=0)
    result = lowrank.compress(model, rule)
    assert result.allocation["ranks"] == {"fc1": 1, "fc2": 0}
    assert isinstance(result.model.fc2, nn.Linear) == (base is None)
    assert not any(p.requires_grad for p in result.model.fc2.parameters() if p.ndim > 1) == (
        base is not None
    )


def test_gradients_of_frozen_weights_count_too_and_stay_without():
    model = TASK.model().requires_grad_(False)
    frozen = lowrank.compress(model, METHOD, data=TASK, norm="identity").allocation
    assert frozen == lowrank.compress(TASK.model(), METHOD, data=TASK, norm="identity").allocation
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_few_examples_are_whole_batches():
    few = AdapterRanks(LoRA(2, 4), examples=17, batch_size=16)
    same = AdapterRanks(LoRA(2, 4), examples=32, batch_size=16)
    more = AdapterRanks(LoRA(2, 4), examples=64, batch_size=16)
    kept = [
        lowrank.compress(TASK.model(), rule, data=TASK, norm="identity").allocation["kept_energy"]
        for rule in (few, same, more)
    ]
    assert kept[0] == kept[1] != kept[2]


def test_bad_input_is_refused_before_any_work():
    model = TASK.model()
    for options, text in (
        ({"adapter": Quantization(4)}, "adapter=.* must be an Adapter, such as LoRA"),
        ({"adapter": VeRA(30)}, "random factors, whose ranks follow no singular direction"),
        ({"adapter": DoRA(VeRA(30))}, "random factors, whose ranks follow no singular direction"),
        ({"adapter": LoRA(2, 4), "score": "fisher"}, "score='fisher' must be one of"),
        ({"adapter": LoRA(2, 4), "params": 0}, "params=0 must be at least 1"),
        ({"adapter": LoRA(2, 4), "examples": 0}, "examples=0 must be at least 1"),
        ({"adapter": LoRA(2, 4), "least": -1}, "least=-1 must be at least 0"),
    ):
        with pytest.raises(ValueError, match=text):
            AdapterRanks(**options)
    for rule, text in (
        (AdapterRanks(LoRA(2, 4), params=20, least=0), "rank 1 in one layer takes 26"),
        (AdapterRanks(LoRA(2, 4), params=100), "rank 1 in every layer takes 106"),
        (AdapterRanks(LoRA(2, 4), least=3), "params=212 is out of reach: rank 3 in every layer"),
        (AdapterRanks(LoRA(2, 4), least=11), r"least=11 is above the sides of .*\['fc2'\]"),
    ):
        with pytest.raises(ValueError, match=text):
            lowrank.check(model, rule)
    with pytest.raises(ValueError, match="the gradient of the loss needs data that the model"):
        lowrank.compress(model, METHOD)
    with pytest.raises(ValueError, match="the calibration data would have no effect"):
        lowrank.compress(
            model, AdapterRanks(LoRA(2, 4), score="weight"), data=TASK, norm="identity"
        )
    with torch.no_grad():
        model.fc1.weight.zero_(), model.fc2.weight.zero_()
    with pytest.raises(ValueError, match="every weight of the selected layers is zero"):
        lowrank.compress(model, AdapterRanks(LoRA(2, 4), score="weight"))
