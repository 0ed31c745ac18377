"""Low-rank parts of sums that a method has made, trained while the rest stays as it is."""

import copy

import pytest
import torch
from digits_task import QUICK, TASK
from made_tensors import random, single

import lowrank
from lowrank.compression.compress import compress
from lowrank.decomposers import (
    GPTQ,
    AlternatingSum,
    Chain,
    DoRA,
    LoRA,
    LoRAXS,
    LowRankPlusSparse,
    Quantization,
    QuantizedPlusLowRank,
    TruncatedSVD,
)
from lowrank.decomposers.half_precision import HalfPrecision
from lowrank.factorizations import Dense, Product, Sum
from lowrank.factorizations.adapted import taken_apart
from lowrank.point import measure_point
from lowrank.recovery import DecomposeLeaves, FineTune, InOrder, ThawLowRank
from lowrank.recovery.thaw_low_rank import thaw

TRAIN = FineTune(2, 3e-3, batch_size=256, scope="factorizations")
BOTH = InOrder([ThawLowRank(), TRAIN])
# All with a product of rank 2.
SUMS = {
    "low rank + sparse": LowRankPlusSparse(2, 0.9, iterations=2),
    "CALDERA": QuantizedPlusLowRank(2, GPTQ(2, 16), iterations=1),
    "16 bits": AlternatingSum([GPTQ(2), Chain([TruncatedSVD(rank=2), HalfPrecision()])], 2),
    "quantized + low rank": AlternatingSum([GPTQ(2, 16), TruncatedSVD(rank=2)], 2),
}
every_sum = pytest.mark.parametrize("method", SUMS.values(), ids=SUMS.keys())


def network():
    """Whose first weight is of rank 2 but for outliers and noise."""
    torch.manual_seed(0)
    model = TASK.model()
    weight = random(16, 2) @ random(2, 64, seed=1) + 6 * (random(16, 64, seed=2) > 2.2)
    with torch.no_grad():
        model.fc1.weight.copy_(0.1 * (weight + 0.1 * random(16, 64, seed=3)))
    return model


def compressed(method):
    result = compress(network(), method, where="fc1")
    assert isinstance(result.model.fc1.factorization, Sum)
    return result


def numbers(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@every_sum
def test_it_changes_no_number_and_lets_only_the_low_rank_part_be_trained(method):
    result = compressed(method)
    before, dense = copy.deepcopy(result.model), numbers(result.dense)
    found = ThawLowRank().recover_compressed(result, TASK)
    assert found == {"low_rank": {"fc1": ["LowRank 64→2→16"]}}
    form, was = result.model.fc1.factorization, before.fc1.factorization
    assert torch.equal(form.to_dense(), was.to_dense())
    product = next(term for term in form.terms if isinstance(term, Product))
    own = {id(p) for p in product.parameters()}
    assert {id(p) for p in form.parameters() if p.requires_grad} == own
    assert sum(p.numel() for p in product.parameters()) == 2 * (16 + 64)
    x = single(5, 64)
    torch.testing.assert_close(result.model(x), before(x))
    assert all(torch.equal(t, dense[name]) for name, t in result.dense.state_dict().items())
    # What the report says is that of now.
    assert result.layers[0].bytes == form.nbytes >= was.nbytes


@every_sum
def test_training_moves_the_low_rank_part_and_nothing_else(method, tmp_path):
    result = compressed(method)
    ThawLowRank().recover_compressed(result, TASK)
    before = numbers(result.model)
    losses = TRAIN.recover_compressed(result, TASK)["losses"]
    assert losses[1] < losses[0]
    after = result.model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == trained(result.model) and len(moved) == 2
    lowrank.save(result.model, tmp_path / "trained.safetensors")
    again, x = lowrank.load(tmp_path / "trained.safetensors", network()), single(5, 64)
    assert torch.equal(again(x), result.model.eval()(x))


def test_what_was_trained_is_stored_in_few_bits_again():
    result = compressed(SUMS["CALDERA"])
    size, base = result.layers[0].bytes, result.model.fc1.factorization.terms[0]
    order = InOrder([ThawLowRank(), TRAIN, DecomposeLeaves(Quantization(4))])
    steps = order.recover_compressed(result, TASK)["steps"]
    form = result.model.fc1.factorization
    assert steps[2]["decomposed"] == {"fc1": form.describe()}
    assert torch.equal(form.terms[0].to_dense(), base.to_dense())
    # One scale for each row of the left factor, which had one for all of them.
    assert result.layers[0].bytes == size + 2 * 15


def test_it_is_then_an_adapter_over_a_frozen_base():
    form = compressed(SUMS["low rank + sparse"]).model.fc1.factorization
    with pytest.raises(ValueError, match="its base, .*Sparse.*, is trained"):
        taken_apart(form)
    thaw(form, {})
    assert taken_apart(form).terms == (form.terms[0],)


def test_adapters_keep_what_they_froze_and_other_layers_are_frozen_whole():
    methods = {"fc1": LoRAXS(2, 4), "fc2": Quantization(4)}
    result = compress(network(), methods)
    before = trained(result.model)
    found = ThawLowRank().recover(result.model, TASK)["low_rank"]
    assert trained(result.model) == before and len(found["fc1"]) == 1 and found["fc2"] == []
    mixed = compress(network(), {"fc1": TruncatedSVD(rank=2), "fc2": LowRankPlusSparse(2, 0.5)})
    sparse = mixed.model.fc2.factorization.terms[1]
    assert any(p.requires_grad for p in sparse.parameters())
    ThawLowRank().recover(mixed.model, TASK)
    assert not any(p.requires_grad for p in sparse.parameters())
    assert all(p.requires_grad for p in mixed.model.fc1.factorization.parameters())


@pytest.mark.parametrize("base", [TruncatedSVD(rank=4), SUMS["CALDERA"]], ids=str)
@pytest.mark.parametrize("wrap", [lambda lora: lora, DoRA], ids=["LoRA", "DoRA"])
def test_a_low_rank_base_of_an_adapter_stays_frozen_and_small(base, wrap):
    result = compress(network(), wrap(LoRA(2, 4, base=base)))
    frozen, size = trained(result.model), sum(layer.bytes for layer in result.layers)
    before = {name: tensor.clone() for name, tensor in result.model.state_dict().items()}
    ThawLowRank().recover_compressed(result, TASK)
    assert sum(layer.bytes for layer in result.layers) == size
    TRAIN.recover_compressed(result, TASK)
    now = {name: p for name, p in result.model.named_parameters() if p.requires_grad}
    assert now.keys() <= set(frozen)
    moved = {n for n, t in result.model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved and moved <= now.keys()


def test_what_layers_share_they_go_on_sharing():
    shared, made = Quantization(4).decompose(random(8, 2)), {}
    forms = [Product(shared, Dense(random(2, 6, seed=seed))) for seed in range(2)]
    for form in forms:
        thaw(form, made)
    assert forms[0].factors[0] is forms[1].factors[0] and isinstance(forms[0].factors[0], Dense)


def test_a_model_without_a_low_rank_part_is_refused_before_it_is_trained():
    model = compress(network(), Quantization(4)).model
    before = trained(model)
    text = r"has no low-rank part: .* such as Quantized 64→16, 4 bits.* Take a method with one"
    for recovery in (ThawLowRank(), BOTH):
        with pytest.raises(ValueError, match=text):
            recovery.recover(model, TASK)
        with pytest.raises(ValueError, match=text):
            recovery.check_forms(model)
    assert trained(model) == before


def test_a_point_says_what_was_trained_and_its_dense_model_is_trained_whole():
    record = measure_point(TASK, LowRankPlusSparse(2, 0.8), recovery=BOTH, measure=QUICK)
    thawed, found = record["recovered"]["steps"]
    assert set(thawed["low_rank"]) == {"fc1", "fc2"}
    assert found["trained_params"] == 2 * (64 + 16 + 16 + 10)
    assert record["dense"]["trainable_params"] == 64 * 16 + 16 + 160 + 10
