"""Methods one after the other, each on the dense leaves of what came before."""

from collections import UserList
from dataclasses import dataclass, replace

import pytest
import torch
from made_tensors import single_by_sum as random

from lowrank.decomposers import (
    Chain,
    Decomposer,
    LoRA,
    LowRankPlusSparse,
    LowRankTimesSparse,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)
from lowrank.factorizations import Dense, Product, Quantized, Sparse, Sum


def test_prune_then_quantize_is_a_sparse_matrix_of_quantized_values():
    weight = random(30, 40)
    form = Chain([MagnitudePruning(0.9), Quantization(4)]).decompose(weight)
    assert isinstance(form, Sparse) and isinstance(form.values, Quantized)
    pruned = MagnitudePruning(0.9).decompose(weight)
    # Built by hand: the values that pruning kept, rounded on their own.
    by_hand = Quantization(4).decompose(pruned.values.to_dense())
    wanted = torch.zeros(30, 40).masked_scatter(pruned.to_dense() != 0, by_hand.to_dense())
    assert torch.equal(form.to_dense(), wanted)


def test_rows_that_share_a_scale_because_they_differ_in_length_are_noted():
    weight = random(30, 40)
    ragged = Chain([MagnitudePruning(0.9), Quantization(4)]).decompose(weight)
    assert ragged.values.layout.count == 1
    assert ragged.notes[0].startswith("rows keep different numbers of weights")
    grouped = Chain([MagnitudePruning(0.9), Quantization(4, group_size=16)]).decompose(weight)
    assert grouped.values.layout.count == 8  # ⌈120 / 16⌉: what the documentation advises.
    regular = Chain([MagnitudePruning(pattern="2:4"), Quantization(4)]).decompose(weight)
    assert regular.values.layout.count == 30 and regular.notes == ()


def test_svd_then_quantize_is_a_product_of_quantized_factors():
    weight = random(30, 40)
    form = Chain([TruncatedSVD(rank=4), Quantization(8)]).decompose(weight)
    assert isinstance(form, Product)
    svd = TruncatedSVD(rank=4).decompose(weight)
    for factor, exact in zip(form.factors, svd.factors, strict=True):
        assert isinstance(factor, Quantized)
        wanted = Quantization(8).decompose(exact.weight)
        assert torch.equal(factor.to_dense(), wanted.to_dense())


def test_every_dense_leaf_is_reached_however_deep():
    form = Chain([LowRankPlusSparse(3, 0.9), Quantization(8)]).decompose(random(60, 80))
    low_rank, sparse = form.terms
    assert [type(factor) for factor in low_rank.factors] == [Quantized, Quantized]
    assert isinstance(sparse.values, Quantized)


def test_three_steps():
    steps = [TruncatedSVD(rank=8), MagnitudePruning(0.5), Quantization(8)]
    form = Chain(steps).decompose(random(60, 80))
    assert isinstance(form, Product)
    assert all(isinstance(f, Sparse) and isinstance(f.values, Quantized) for f in form.factors)
    nested = Chain([Chain(steps[:2]), steps[2]]).decompose(random(60, 80))
    assert torch.equal(form.to_dense(), nested.to_dense())


def test_one_step_is_that_step():
    weight = random(30, 40)
    wanted = TruncatedSVD(rank=4).decompose(weight)
    assert torch.equal(
        Chain([TruncatedSVD(rank=4)]).decompose(weight).to_dense(), wanted.to_dense()
    )


def test_a_layer_kept_dense_is_quantized_as_dense_and_the_note_kept():
    form = Chain([TruncatedSVD(rank=20), Quantization(8)]).decompose(random(30, 40))
    assert isinstance(form, Quantized)
    assert form.notes == ("kept dense: rank 20 needs 1400 params, dense has 1200",)


def test_the_note_of_the_whole_says_what_its_parts_do_once():
    steps = [LowRankPlusSparse(3, 0.9), TruncatedSVD(rank=1), Quantization(8)]
    form = Chain(steps).decompose(random(60, 80))
    assert isinstance(form, Sum)
    one_row, kept_dense = form.notes
    assert one_row.startswith("rows keep different numbers of weights")
    assert kept_dense == "kept dense: rank 1 needs 481 params, dense has 480"
    nested = Chain([Chain(steps[:2]), steps[2]]).decompose(random(60, 80))
    assert sorted(nested.notes) == sorted((one_row, kept_dense))


def test_what_a_step_froze_stays_frozen():
    steps = [LoRA(4, 8, base=LowRankTimesSparse(4)), MagnitudePruning(0.5)]
    form = Chain(steps).decompose(random(60, 80))
    assert isinstance(form, Sum)
    base, adapter = form.terms
    assert not any(p.requires_grad for p in base.parameters())
    assert all(p.requires_grad for p in adapter.parameters())


def test_any_sequence_of_steps_will_do_and_becomes_a_tuple():
    """Hydra hands over a sequence of its own."""
    chain = Chain(UserList([TruncatedSVD(rank=4), Quantization(8)]))
    assert chain.steps == (TruncatedSVD(rank=4), Quantization(8))
    assert hash(chain) == hash(replace(chain))
    assert chain == Chain((TruncatedSVD(rank=4), Quantization(8)))


@pytest.mark.parametrize("view", ["channel", "spatial"])
def test_the_kernel_is_seen_as_the_first_step_sees_it(view):
    chain = Chain([TruncatedSVD(rank=4, view=view), TruncatedSVD(rank=2, view="spatial")])
    assert chain.kernel_view() == view


@dataclass(frozen=True)
class Recorder(Decomposer):
    """Notes the norm that it is handed."""

    seen: list

    def _decompose(self, weight, norm):
        self.seen.append(norm)
        return Dense(weight.clone())


def test_the_norm_is_that_of_the_weight_and_not_of_its_leaves():
    from lowrank.norms import IDENTITY, Identity

    class Other(Identity):
        pass

    first, second, other = [], [], Other()
    Chain([Recorder(first), Recorder(second)]).decompose(random(3, 4), other)
    assert first == [other] and second == [IDENTITY] and second[0] is not other


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([], "Chain needs at least 1 step, got none"),
        ([TruncatedSVD(rank=4), 8], "step 2 of Chain must be a Decomposer, got 8"),
        (Quantization(4), r"steps=Quantization\(bits=4.* must be a sequence of decomposers"),
        (TruncatedSVD, "must be a sequence of decomposers"),
        ([Quantization], "step 1 of Chain must be a Decomposer, got <class"),
    ],
)
def test_steps_that_are_none_are_refused(steps, text):
    with pytest.raises(ValueError, match=text):
        Chain(steps)


def test_errors_name_the_step():
    first = Chain([TruncatedSVD(rank=99), Quantization(8)])
    with pytest.raises(ValueError, match=r"step 1 of Chain, TruncatedSVD\(rank=99.*rank=99 does"):
        first.decompose(random(30, 40))
    second = Chain([TruncatedSVD(rank=4), TruncatedSVD(rank=5)])
    with pytest.raises(ValueError, match=r"step 2 of Chain, TruncatedSVD\(rank=5.*\(30, 4\)"):
        second.decompose(random(30, 40))
