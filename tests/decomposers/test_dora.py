"""DoRA: exact starts, the gradient of the paper, conversions of layers, merging and files."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from torch import nn

import lowrank
from lowrank.decomposers import (
    DoRA,
    LoRA,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
    VeRA,
    merge,
)
from lowrank.factorizations import Dense, NormalizedRows, Quantized
from lowrank.factorizations.operations import Convolve
from lowrank.recovery import merge_adapters

ADAPTERS = {
    "LoRA": LoRA(3, 6),
    "VeRA": VeRA(8),
    "quantized": LoRA(3, 6, base=Quantization(3)),
    "pruned": LoRA(3, 6, base=MagnitudePruning(0.7)),
    "low rank": LoRA(3, 6, base=TruncatedSVD(rank=6)),
    "LoftQ": LoRA(3, 6, base=Quantization(3), init="residual"),
}
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS.keys())


def moved(form: NormalizedRows) -> NormalizedRows:
    """As if trained."""
    with torch.no_grad():
        for parameter in form.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * random(*parameter.shape, 1, seed=5).view_as(parameter))
    return form


@every_adapter
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_step_0_equals_the_adapter_bit_for_bit(adapter, dtype):
    weight, x = random(20, 30, dtype=dtype), random(5, 30, dtype=dtype)
    form, alone = DoRA(adapter).decompose(weight).eval(), adapter.decompose(weight).eval()
    assert torch.equal(form(x), alone(x))
    assert torch.equal(form.to_dense(), alone.to_dense())


@every_adapter
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step_0_of_a_layer_with_a_bias_equals_the_adapter_bit_for_bit(adapter, dtype):
    layer, x = nn.Linear(30, 20, dtype=dtype), random(5, 30, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(random(20, 30))
        layer.bias.copy_(random(20, 1)[:, 0])
    forms = [
        lowrank.compress(nn.Sequential(layer), m).model.eval() for m in (DoRA(adapter), adapter)
    ]
    assert torch.equal(forms[0](x), forms[1](x))


@every_adapter
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merged_at_step_0_it_is_what_the_adapter_is_merged(adapter, dtype):
    weight = random(40, 30, dtype=dtype)
    ours, theirs = (merge(m.decompose(weight)) for m in (DoRA(adapter), adapter))
    assert torch.equal(ours.weight, theirs.weight)


PRODUCTS = [ADAPTERS["low rank"], LoRA(3, 6, init="pissa"), LoRA(3, 6, base=Quantization(3))]


@pytest.mark.parametrize("adapter", PRODUCTS, ids=str)
def test_step_0_equals_the_adapter_under_autocast(adapter):
    weight, x = random(20, 30).float(), random(5, 30).float()
    form, alone = (m.decompose(weight).eval() for m in (DoRA(adapter), adapter))
    with torch.autocast("cpu", torch.bfloat16):
        y, wanted = form(x), alone(x)
    assert y.dtype == wanted.dtype == torch.bfloat16 and torch.equal(y, wanted)


def grown(adapter: LoRA, dtype: torch.dtype) -> NormalizedRows:
    """A form whose term is a million times longer than its rows."""
    form = DoRA(adapter).decompose(random(20, 30, dtype=dtype))
    with torch.no_grad():
        form.term.terms[1].term.factors[0].weight.copy_(1e6 * random(20, 3, seed=5))
    return form


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_digits_are_lost_where_the_term_has_grown_far_beyond_its_rows(dtype):
    form, x, bias = grown(LoRA(3, 6), dtype), random(5, 30, dtype=dtype), random(20, 1)[:, 0]
    with torch.no_grad():
        y = form(x, bias=bias.to(dtype))
        wanted = nn.functional.linear(
            x.double(), copy.deepcopy(form).double().to_dense(), bias.to(dtype).double()
        )
    error = (y - wanted).norm() / wanted.norm()
    assert error < 8 * torch.finfo(dtype).eps


def test_a_large_factor_does_not_cost_the_digits_of_the_bias():
    form, x = DoRA(LoRA(3, 6)).decompose(1e-6 * random(20, 30)), random(5, 30)
    bias = random(20, 1)[:, 0]
    with torch.no_grad():
        form.lengths.mul_(1e6)
        torch.testing.assert_close(form(x, bias=bias), x @ form.to_dense().T + bias)


def test_dropout_is_of_the_adapter_as_it_counts_in_its_rows():
    """In training y = f · (base + adapter of what is left of x), the same f for both."""
    form, x = grown(LoRA(3, 6, dropout=0.5), torch.float64).train(), random(5, 30)
    term, factors = form.term, form.lengths / form.term.to_dense().norm(dim=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = form(x)
        torch.manual_seed(0)
        torch.testing.assert_close(y, term(x) * factors)
    assert not torch.allclose(y, form.eval()(x))


@pytest.mark.parametrize("adapter", [LoRA(2, 4, dropout=0.5), LoRA(2, 4, init="pissa")], ids=str)
def test_rows_of_kernels_of_the_spatial_view_are_scaled_too(adapter):
    """There several rows of the matrix add up in an output channel."""
    operation, x = Convolve((3, 2), view="spatial"), random(2 * 4 * 5, 5).view(2, 4, 5, 5)
    base = LoRA(2, 4, base=TruncatedSVD(rank=4), dropout=adapter.dropout)
    form = DoRA(base).decompose(random(5 * 2, 4 * 3)).eval()
    bias = random(5, 1)[:, 0]
    assert torch.equal(form(x, operation, bias), form.term(x, operation, bias))
    form = moved(form)
    with torch.no_grad():
        form.lengths.mul_(1e-3)
        wanted = operation.apply(x, form.to_dense(), bias)
        torch.testing.assert_close(form(x, operation, bias), wanted, rtol=1e-4, atol=1e-5)
        if base.dropout:
            assert not torch.allclose(form.train()(x, operation, bias), wanted)


@settings(max_examples=25)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 50))
def test_rows_have_the_trained_lengths_and_the_directions_of_the_adapter(out, inner, seed):
    adapter = LoRA(1, 2, seed=seed)
    form = moved(DoRA(adapter).decompose(random(out, inner, seed=seed)))
    directions = nn.functional.normalize(form.term.to_dense(), dim=1)
    torch.testing.assert_close(form.to_dense(), form.lengths[:, None] * directions)


def test_the_gradient_is_that_of_the_paper_with_constant_norms():
    """Equations 6, 7 and 11: ∇m = Σ ∇W' · V/‖V‖ over a row, ∇V = m/‖V‖ · ∇W'."""
    form = moved(DoRA(LoRA(3, 6)).decompose(random(20, 30)))
    x, upstream = random(7, 30, seed=1), random(7, 20, seed=2)
    left, right = (factor.weight for factor in form.term.terms[1].term.factors)
    found = torch.autograd.grad((form(x) * upstream).sum(), [form.lengths, left, right])
    outer, matrix = upstream.T @ x, form.term.to_dense().detach()
    norms = matrix.norm(dim=1)
    of_matrix = (form.lengths.detach() / norms)[:, None] * outer
    wanted = (
        (outer * matrix / norms[:, None]).sum(dim=1),
        2 * of_matrix @ right.detach().T,
        2 * left.detach().T @ of_matrix,
    )
    torch.testing.assert_close(found, wanted)


def test_a_row_of_zeros_stays_one_and_trains_on():
    weight = random(20, 30)
    weight[3] = 0
    form = DoRA(LoRA(3, 6)).decompose(weight)
    form(random(4, 30)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in form.parameters() if p.requires_grad)
    with torch.no_grad():
        form.term.terms[1].term.factors[0].weight.add_(1)
    assert bool((form.to_dense()[3] == 0).all())
    assert bool((form(random(4, 30))[:, 3] == 0).all())


def test_a_note_counts_the_rows_that_are_never_trained():
    weight = random(20, 30)
    assert DoRA(LoRA(3, 6)).decompose(weight).notes == ()
    weight[3:5] = 0
    (note,) = DoRA(LoRA(3, 6)).decompose(weight).notes
    assert "2 of 20 rows are zero and stay so" in note


def test_a_frozen_base_is_decoded_once_for_all_steps(monkeypatch):
    form, decoded = DoRA(ADAPTERS["quantized"]).decompose(random(20, 30)), []
    whole = Quantized.to_dense
    monkeypatch.setattr(Quantized, "to_dense", lambda leaf: decoded.append(1) or whole(leaf))
    optimizer = torch.optim.SGD(form.parameters(), lr=1e-3)
    for seed in range(3):
        form(random(4, 30, seed=seed)).square().sum().backward()
        optimizer.step()
    assert len(decoded) == 1


def network() -> tuple[nn.Sequential, torch.Tensor]:
    """Convolutions, one with groups, a linear layer of each kind of use."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(8, 6, (3, 2), stride=2, groups=2, bias=False),
            nn.Flatten(),
            nn.Linear(6 * 2 * 2, 5),
        )
        return model.eval(), torch.randn(3, 4, 6, 5)


@pytest.mark.parametrize(
    "adapter", [LoRA(2, 4), LoRA(2, 4, base=TruncatedSVD(rank=2)), VeRA(6)], ids=str
)
def test_in_convolutions_it_starts_exactly_merges_and_comes_back_from_a_file(adapter, tmp_path):
    model, x = network()
    form = lowrank.compress(model, DoRA(adapter)).model.eval()
    alone = lowrank.compress(model, adapter).model.eval()
    assert torch.equal(form(x), alone(x))
    for module in form.modules():
        if isinstance(module, NormalizedRows):
            with torch.no_grad():
                module.lengths.mul_(1.5)
    after = form(x)
    assert not torch.allclose(after, alone(x))
    lowrank.save(form, tmp_path / "dora.safetensors")
    assert torch.equal(lowrank.load(tmp_path / "dora.safetensors", model).eval()(x), after)
    assert list(merge_adapters(form)) == ["0", "1", "3"]
    torch.testing.assert_close(form(x), after, rtol=1e-4, atol=1e-5)
    assert isinstance(form[3].factorization, Dense)


def test_the_lengths_train_where_the_weight_is_frozen():
    model, _ = network()
    form = lowrank.compress(model.requires_grad_(False), DoRA(LoRA(2, 4))).model
    trained = [name for name, p in form.named_parameters() if p.requires_grad]
    assert len(trained) == 9 and sum("lengths" in name for name in trained) == 3


def test_rank_and_size_are_those_of_the_adapter_and_the_lengths():
    method = DoRA(LoRA(3, 6))
    assert (method.rank, method.level, method.family) == (3, 3, "adapter")
    assert method.at_rank(5) == DoRA(LoRA(5, 10))
    assert method.trained((20, 30)) == 3 * 50 + 20


@pytest.mark.parametrize("adapter", [Quantization(4), None, DoRA(LoRA(2, 4))])
def test_what_is_no_adapter_is_refused(adapter):
    with pytest.raises(ValueError, match=r"adapter.*(must be an Adapter|is a DoRA)"):
        DoRA(adapter)


@pytest.mark.parametrize("lengths", [torch.ones(3), torch.ones(20, 1), torch.ones(20).int()])
def test_lengths_that_are_not_one_number_for_each_row_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths"):
        NormalizedRows(Dense(random(20, 30)), lengths)
