"""A frozen base and an adapter: its starts, what is trained, and merging."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from made_tensors import tensor_bytes
from torch import Tensor

from lowrank.decomposers import (
    GPTQ,
    LoRA,
    MagnitudePruning,
    Quantization,
    RandomPruning,
    TruncatedSVD,
    merge,
)
from lowrank.factorizations import Dense, Product, Quantized, Scaled, Sparse, Sum
from lowrank.norms import Diagonal, Full


def pieces(form) -> tuple:
    """base, left, right, scale"""
    assert isinstance(form, Sum)
    base, adapter = form.terms
    assert isinstance(adapter, Scaled) and isinstance(adapter.term, Product)
    left, right = (factor.weight.detach() for factor in adapter.term.factors)
    return base, left, right, adapter.scale


def best(matrix: Tensor, rank: int) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def distance(one: Tensor, other: Tensor) -> float:
    return float(torch.linalg.matrix_norm((one - other).detach()))


BASES = {
    "dense": None,
    "quantized": Quantization(3, scale_dtype="float32"),
    "pruned": MagnitudePruning(0.7),
    "low rank": TruncatedSVD(rank=6),
}
LOSING = {name: base for name, base in BASES.items() if base is not None}


def of_base(base, weight: Tensor) -> Tensor:
    return weight if base is None else base.decompose(weight).to_dense().detach()


def norm_of(name: str):
    inputs = random(30, 60, seed=3) * torch.linspace(0.2, 2, 30)[:, None]
    moment, rows = inputs @ inputs.T / 60, torch.linspace(0.5, 2, 20).double()
    return {"diagonal": Diagonal(moment.diagonal(), rows), "full": Full(moment, rows)}[name]


@pytest.mark.parametrize("name", ["diagonal", "full"])
class TestNorms:
    """In the norm the error is the tail of the whitened spectrum of what is approximated."""

    def tail(self, matrix: Tensor, norm, rank: int) -> float:
        return float(torch.linalg.svdvals(norm.whiten(matrix))[rank:].norm())

    def test_residual_is_the_nearest_to_what_the_base_loses(self, name):
        weight, norm, base = random(20, 30), norm_of(name), GPTQ(2, 10)
        form = LoRA(3, 6, init="residual", base=base).decompose(weight, norm)
        missed = weight - base.decompose(weight, norm).to_dense()
        error = norm(weight - form.to_dense())
        assert error == pytest.approx(self.tail(missed, norm, 3), rel=1e-9)
        assert error < norm(missed)

    def test_pissa_trains_the_principal_part(self, name):
        weight, norm = random(20, 30), norm_of(name)
        base, left, right, scale = pieces(LoRA(3, 6, init="pissa").decompose(weight, norm))
        rest = weight - scale * left @ right
        assert norm(rest) == pytest.approx(self.tail(weight, norm, 3), rel=1e-9)
        torch.testing.assert_close(base.to_dense().detach(), rest)


class TestZero:
    @pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_step_0_equals_the_base_bit_for_bit(self, base, dtype):
        weight, x = random(20, 30, dtype=dtype), random(5, 30, dtype=dtype)
        form = LoRA(4, 16, base=base).decompose(weight).eval()
        alone = Dense(weight) if base is None else base.decompose(weight)
        assert torch.equal(form(x), alone(x))
        assert torch.equal(form.to_dense(), alone.to_dense())

    @pytest.mark.parametrize("rank", [2, 8])
    def test_right_is_drawn_as_by_kaiming_whatever_the_rank(self, rank):
        right = pieces(LoRA(rank, 16).decompose(random(20, 4000)))[2]
        bound = 4000**-0.5
        drawn = torch.nn.init.kaiming_uniform_(torch.empty(rank, 4000).double(), a=5**0.5)
        assert 0.99 * bound < float(drawn.abs().max()) <= bound
        assert 0.99 * bound < float(right.abs().max()) <= bound
        assert float(right.mean()) == pytest.approx(0, abs=5 * bound / (3 * 4000 * rank) ** 0.5)
        shares = [float((right.abs() < share * bound).double().mean()) for share in (0.25, 0.5)]
        assert shares == pytest.approx([0.25, 0.5], abs=0.02)

    def test_the_draw_follows_the_seed_and_the_weight(self):
        weight, other = random(20, 30), random(20, 30, seed=1)

        def right(weight: Tensor, seed: int) -> Tensor:
            return pieces(LoRA(4, 8, seed=seed).decompose(weight))[2]

        assert torch.equal(right(weight, 0), right(weight.clone(), 0))
        assert not torch.equal(right(weight, 0), right(weight, 1))
        assert not torch.equal(right(weight, 0), right(other, 0))
        single = right(weight.float(), 0)
        assert torch.equal(single, right(weight.float().double(), 0).float())


class TestPissa:
    @settings(max_examples=25)
    @given(st.integers(1, 20), st.floats(0.5, 64), st.integers(0, 50))
    def test_the_adapter_is_the_principal_part_and_the_base_what_is_left(self, rank, alpha, seed):
        weight = random(20, 30, seed=seed)
        base, left, right, scale = pieces(LoRA(rank, alpha, init="pissa").decompose(weight))
        assert scale == alpha / rank
        torch.testing.assert_close(scale * left @ right, best(weight, rank))
        torch.testing.assert_close(base.to_dense().detach(), weight - best(weight, rank))
        torch.testing.assert_close(base.to_dense() + scale * left @ right, weight)

    def test_a_quantized_base_loses_less_than_without_the_principal_part(self):
        """QPiSSA: the base has a smaller range to represent."""
        weight = random(40, 4) @ random(4, 60) + 0.1 * random(40, 60)
        base = LOSING["quantized"]
        form = LoRA(4, 8, init="pissa", base=base).decompose(weight)
        assert isinstance(form.terms[0], Quantized)
        assert distance(form.to_dense(), weight) < 0.5 * distance(of_base(base, weight), weight)


@pytest.mark.parametrize("base", LOSING.values(), ids=LOSING.keys())
class TestResidual:
    def test_the_adapter_is_the_best_approximation_of_what_the_base_loses(self, base):
        weight = random(20, 30)
        frozen, left, right, scale = pieces(
            LoRA(4, 16, init="residual", base=base).decompose(weight)
        )
        assert torch.equal(frozen.to_dense(), of_base(base, weight))
        torch.testing.assert_close(scale * left @ right, best(weight - of_base(base, weight), 4))

    @settings(max_examples=25)
    @given(rank=st.integers(1, 20), alpha=st.floats(0.5, 64), seed=st.integers(0, 50))
    def test_never_worse_than_the_base_alone(self, base, rank, alpha, seed):
        weight = random(20, 30, seed=seed)
        form = LoRA(rank, alpha, init="residual", base=base).decompose(weight)
        assert distance(form.to_dense(), weight) < distance(of_base(base, weight), weight)

    def test_full_rank_repairs_all(self, base):
        weight = random(20, 30)
        form = LoRA(20, 16, init="residual", base=base).decompose(weight)
        torch.testing.assert_close(form.to_dense().detach(), weight)


def test_a_residual_of_nothing_is_refused():
    with pytest.raises(ValueError, match="a dense base loses nothing: give a base .* init='zero'"):
        LoRA(4, 8, init="residual")
    kept_dense = LoRA(4, 8, init="residual", base=TruncatedSVD(rank=19))
    text = r"nothing to start from: the base, Dense 30→20, equals the weight \(kept dense: .*'zero'"
    with pytest.raises(ValueError, match=text):
        kept_dense.decompose(random(20, 30))


@pytest.mark.parametrize("init", ["zero", "pissa", "residual"])
@pytest.mark.parametrize("base", LOSING.values(), ids=LOSING.keys())
class TestTraining:
    def test_only_the_adapter_is_trained(self, base, init):
        weight = random(20, 30)
        form = LoRA(4, 8, init=init, base=base).decompose(weight)
        base_before = form.terms[0].to_dense().clone()
        trained = [p for p in form.parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == 4 * (20 + 30)
        optimizer = torch.optim.SGD(form.parameters(), lr=0.01, weight_decay=0.1, momentum=0.9)
        x, target = random(50, 30, seed=1), random(50, 20, seed=2)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (form(x) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        assert torch.equal(form.terms[0].to_dense(), base_before)
        assert all(p.grad is None for p in form.parameters() if not p.requires_grad)

    def test_merging_equals_not_merging(self, base, init):
        form = LoRA(4, 8, dropout=0.5, init=init, base=base).decompose(random(20, 30))
        with torch.no_grad():
            for parameter in form.terms[1].parameters():
                parameter.add_(random(*parameter.shape, seed=9))
        before = form.to_dense().detach().clone()
        merged = merge(form.train())
        x = random(5, 30)
        assert isinstance(merged, Dense) and merged.weight.requires_grad
        torch.testing.assert_close(merged(x), form.eval()(x))
        assert torch.equal(form.to_dense(), before)


def test_the_forms_of_the_bases_are_those_of_the_literature():
    """QLoRA and LoSparse are expressions; the adapter's bytes come on top of the base's."""
    weight = random(20, 30, dtype=torch.float32)
    for base, kind in ((Quantization(4), Quantized), (MagnitudePruning(0.9), Sparse)):
        form = LoRA(2, 4, base=base).decompose(weight)
        assert isinstance(form.terms[0], kind)
        alone = tensor_bytes(base.decompose(weight))
        total = tensor_bytes(form)
        assert total == alone + 4 * 2 * (20 + 30)
    plain = LoRA(2, 4).decompose(weight)
    assert tensor_bytes(plain) > weight.nbytes
    assert plain.describe() == "Sum(Dense 30→20, 2·LowRank 30→2→20)"


def test_merging_half_precision_rounds_once_and_says_what_that_costs():
    form = LoRA(4, 8).decompose(random(20, 30, dtype=torch.bfloat16))
    with torch.no_grad():
        form.terms[1].term.factors[0].weight.copy_(random(20, 4))
    merged = merge(form)
    assert {p.dtype for p in form.parameters()} == {torch.bfloat16}  # It is not touched.
    exact = form.double().to_dense().detach()
    assert merged.weight.dtype == torch.bfloat16
    assert torch.equal(merged.weight, exact.float().bfloat16())
    error = distance(merged.weight.double(), exact) / float(exact.norm())
    assert 0 < error < 2**-8
    text = f"merged from Sum(Dense 30→20, 2·LowRank 30→4→20), relative error {error:.2g}"
    assert merged.notes == (text,)


def test_merging_what_rounds_nothing_is_exact():
    form = LoRA(4, 8).decompose(random(20, 30))
    assert torch.equal(merge(form).weight, form.to_dense())
    assert merge(form).notes[-1].endswith("relative error 0")


def test_the_note_of_the_base_is_kept():
    form = LoRA(4, 8, base=TruncatedSVD(rank=19)).decompose(random(20, 30))
    kept = "kept dense: rank 19 needs 950 params, dense has 600"
    assert form.notes == (kept,)
    assert merge(form).notes[0] == kept and len(merge(form).notes) == 2


def test_a_kernel_is_seen_as_the_base_sees_it():
    assert LoRA(4, 8).kernel_view() == "channel"
    assert LoRA(4, 8, base=TruncatedSVD(rank=2)).kernel_view() == "spatial"


def test_dropout_is_that_of_the_adapter():
    form = LoRA(4, 8, dropout=0.25).decompose(random(20, 30))
    assert form.terms[1].dropout == 0.25


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 0}, "alpha=0 must be above 0"),
        ({"alpha": float("nan")}, "alpha=nan must be above 0"),
        ({"alpha": 8, "dropout": 1.0}, r"dropout=1.0 must lie in \[0, 1\)"),
        (
            {"alpha": 8, "init": "ones"},
            r"init='ones' must be one of \('zero', 'pissa', 'residual'\)",
        ),
    ],
)
def test_bad_hyperparameters_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        LoRA(4, **options)


@pytest.mark.parametrize("rank", [21, 100])
@pytest.mark.parametrize("init", ["zero", "pissa", "residual"])
def test_a_rank_that_does_not_fit_is_refused(rank, init):
    method = LoRA(rank, 8, init=init, base=RandomPruning(0.5))
    with pytest.raises(ValueError, match=rf"rank={rank} does not fit .*\(20, 30\).*1\.\.20"):
        method.decompose(random(20, 30))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (40, 30)])
def test_where_the_adapter_holds_all_of_the_weight_a_quantized_base_is_zero(shape, dtype):
    """What is left is rounding, for which no scale is small enough."""
    rank = min(*shape, 3)
    weight = 0.1 * random(shape[0], rank, dtype=dtype) @ random(rank, shape[1], dtype=dtype)
    form = LoRA(rank, 8, init="pissa", base=Quantization(4)).decompose(weight)
    assert bool((form.terms[0].to_dense() == 0).all())
    noise = 128 * torch.finfo(dtype).eps * weight.abs().max()
    assert bool(((form.to_dense() - weight).abs() <= noise).all())


def test_what_is_more_than_rounding_is_left_to_the_base():
    weight = 0.1 * random(40, 3, dtype=torch.float32) @ random(3, 30, dtype=torch.float32)
    weight[5, 7] += 1e-3
    form = LoRA(3, 8, init="pissa", base=Quantization(8, scale_dtype="float32")).decompose(weight)
    assert bool(form.terms[0].to_dense().any())
    # A dense base takes the rounding too.
    dense = LoRA(4, 8, init="pissa").decompose(weight)
    assert bool(dense.terms[0].to_dense().any())


def test_an_embedding_with_a_row_of_zeros_has_a_quantized_base():
    table = 0.02 * random(60, 32, dtype=torch.float32)
    table[0] = 0
    form = LoRA(8, 8, init="pissa", base=Quantization(4)).decompose(table)
    assert float(form.to_dense().detach()[0].abs().max()) < 1e-6


class TestScaling:
    @pytest.mark.parametrize(("scaling", "power"), [("alpha/rank", 1), ("alpha/sqrt(rank)", 0.5)])
    def test_the_adapter_counts_as_often_as_it_says(self, scaling, power):
        form = LoRA(4, 6, scaling=scaling).decompose(random(20, 30))
        assert pieces(form)[3] == 6 / 4**power
        assert form.config()["terms"][1]["scale"] == 6 / 4**power

    @pytest.mark.parametrize("init", ["pissa", "residual"])
    def test_the_starts_make_up_for_it(self, init):
        weight, base = random(20, 30), Quantization(2)
        one, other = (
            LoRA(4, 6, base=base, init=init, scaling=scaling).decompose(weight).to_dense()
            for scaling in ("alpha/rank", "alpha/sqrt(rank)")
        )
        torch.testing.assert_close(one, other)

    def test_first_updates_keep_their_size_over_ranks_by_the_root_alone(self):
        """Theorem 3.2 of the paper: the change of the outputs by a step of gradient descent."""

        weight, x, upstream = random(32, 64), random(1, 64, seed=1), random(1, 32, seed=2)

        def change(rank: int, scaling: str, seed: int) -> float:
            form = LoRA(rank, 8, scaling=scaling, seed=seed).decompose(weight)
            before = form(x)
            left = form.terms[1].term.factors[0].weight
            (gradient,) = torch.autograd.grad((before * upstream).sum(), left)
            with torch.no_grad():
                left -= gradient
            return float((form(x) - before).detach().norm())

        def changes(scaling: str) -> list[float]:
            means = [sum(change(rank, scaling, seed) for seed in range(30)) for rank in (2, 8, 32)]
            return [means[0] / mean for mean in means]

        assert changes("alpha/sqrt(rank)") == pytest.approx([1, 1, 1], rel=0.3)
        assert changes("alpha/rank") == pytest.approx([1, 4, 16], rel=0.3)

    @pytest.mark.parametrize("scaling", ["alpha/rank", "alpha/sqrt(rank)"])
    def test_at_another_rank_it_counts_as_often(self, scaling):
        method = LoRA(4, 6, scaling=scaling, dropout=0.1)
        other = method.at_rank(9)
        assert (other.rank, other.dropout, other.scaling) == (9, 0.1, scaling)
        assert other.scale == pytest.approx(method.scale)

    def test_another_scaling_is_refused(self):
        with pytest.raises(ValueError, match=r"scaling='rank' must be one of \('alpha/rank', 'alp"):
            LoRA(4, 8, scaling="rank")
