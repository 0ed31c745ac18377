"""Zeros and codes chosen together: never worse than one after the other, or than one part alone."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from torch import Tensor

from lowrank.approximation.comparison import error_of
from lowrank.approximation.quantization_grid import QuantizationGrid
from lowrank.approximation.sparse_part import sparse_within
from lowrank.decomposers import ALPS, GPTQ, PruneAndQuantize, Quantization
from lowrank.decomposers.prune_and_quantize import Survivors, eliminated
from lowrank.factorizations import Quantized, Sparse
from lowrank.norms import IDENTITY, Diagonal, Full
from lowrank.numerics.curvature import inverse_factor

OUT, INNER = 20, 48


def full(inner: int = INNER, rows: int = OUT) -> Full:
    inputs = random(inner, 3 * inner, seed=7) * torch.linspace(0.2, 2, inner)[:, None]
    inputs = inputs + 2 * inputs.mean(dim=0)
    return Full(inputs @ inputs.T / (3 * inner), torch.linspace(0.5, 2, rows).double())


NORMS = {
    "identity": IDENTITY,
    "diagonal": Diagonal(full().moment.diagonal(), full().rows),
    "full": full(),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())


def heavy(seed: int = 0) -> Tensor:
    """Many small weights and some large ones."""
    return random(OUT, INNER, seed=seed) ** 3


def one_after_the_other(weight: Tensor, norm, method: PruneAndQuantize) -> Tensor:
    """By hand: the survivors of the pruning, rounded to the levels that suit their weights."""
    pruned = method.pruning.decompose(weight, norm)
    assert isinstance(pruned, Sparse)
    values = pruned.values.to_dense().detach()
    counts = norm.entry_weights(weight).expand(weight.shape)[pruned.mask].view(values.shape)
    rounding = method.quantization.rounding()
    rounded = rounding.nearest(values, rounding.grid(values, counts)).to_dense()
    return torch.zeros_like(weight).masked_scatter(pruned.mask, rounded)


@every_norm
@settings(max_examples=12)
@given(
    sparsity=st.floats(0.2, 0.9),
    bits=st.integers(1, 4),
    group_size=st.sampled_from([5, 16, "channel", "tensor"]),
    within=st.sampled_from(["row", "matrix"]),
    sweeps=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_never_worse_than_its_steps_or_parts(
    norm, sparsity, bits, group_size, within, sweeps, seed
):
    weight = heavy(seed)
    pruning = ALPS(sparsity, within=within, iterations=10)
    method = PruneAndQuantize(pruning, GPTQ(bits, group_size, sweeps=sweeps))
    form = method.decompose(weight, norm)
    error = error_of(weight, norm, form)
    assert error <= norm(weight - one_after_the_other(weight, norm, method)) * (1 + 1e-12)
    limit = form.nbytes
    plain = method.quantization.within(weight, norm, limit)
    for part in (sparse_within(weight, norm, limit), *plain):
        assert part is None or error <= error_of(weight, norm, part)
    is_hybrid = isinstance(form, Sparse) and isinstance(form.values, Quantized)
    assert is_hybrid or "instead of a hybrid: Sparse 48→20" in " ".join(form.notes)


def test_each_sweep_is_nearer_and_none_is_worse():
    weight, norm = heavy(), full()
    errors = []
    for sweeps in (0, 1, 2, 5):
        method = PruneAndQuantize(ALPS(0.5, within="row"), GPTQ(3, sweeps=sweeps))
        errors.append(error_of(weight, norm, method.decompose(weight, norm)))
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


def test_the_elimination_is_that_of_the_plain_loop():
    """Against SparseGPT's joint step written out: inverse by inverse, entry by entry."""
    weight, norm = random(3, 6), full(6, 3)
    mask = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) > 0.4
    exact = weight * mask
    levels = QuantizationGrid(2, torch.tensor([0.7]).double(), torch.tensor([2.0]))
    survivors = Survivors(
        mask, Quantization(2, "tensor").rounding().layout(exact[mask][None]), levels
    )
    nearest = survivors.nearest(exact[mask][None])
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    moment = norm.moment
    found = eliminated(exact, nearest, order, inverse_factor(moment[order][:, order])[0])
    rest, left = exact.clone(), order.tolist()
    while left:
        column = left[0]
        inverse = torch.linalg.inv(moment[left][:, left])
        codes = (rest[:, column] / 0.7 + 2).round().clamp(0, 3)
        rounded = (codes - 2) * 0.7 * mask[:, column]
        error = (rest[:, column] - rounded) / inverse[0, 0]
        rest[:, left] -= error[:, None] * inverse[0]
        rest[:, column] = rounded
        left = left[1:]
    torch.testing.assert_close(found.dense().T, rest)


def test_near_the_best_of_all_codes_for_the_mask():
    """A row of 8 weights, 4 of them kept in 2 bits: all 256 ways are tried."""
    norm, ratios = full(8, 1), []
    for seed in range(20):
        weight = random(1, 8, seed=seed)
        method = PruneAndQuantize(ALPS(0.5), GPTQ(2, "tensor", scale="range", sweeps=5))
        pruned = method.pruning.decompose(weight, norm)
        assert isinstance(pruned, Sparse)
        survivors = pruned.to_dense().detach()[pruned.mask]
        grid = method.quantization.rounding().grid(survivors[None], torch.ones(1, 1))
        nearest = Survivors(
            pruned.mask, method.quantization.rounding().layout(survivors[None]), grid
        ).nearest(survivors[None])
        columns, _ = method._together(weight, norm, pruned.to_dense().detach(), nearest)
        best = min(
            norm(weight - torch.zeros(1, 8).double().masked_scatter(pruned.mask, values))
            for codes in itertools.product(range(4), repeat=4)
            for values in [(torch.tensor(codes).double() - grid.zero) * grid.scale]
        )
        ratios.append(norm(weight - columns.dense().T) / best)
    assert min(ratios) > 1 - 1e-9
    assert sorted(ratios)[10] < 1 + 1e-9 and max(ratios) < 1.5


def test_what_is_stored_is_a_sparse_matrix_of_codes():
    form = PruneAndQuantize(ALPS(0.5, within="row"), GPTQ(3)).decompose(heavy(), full())
    assert isinstance(form, Sparse) and isinstance(form.values, Quantized)
    assert form.values.layout.shape == (OUT, INNER // 2) and form.values.layout.count == OUT
    assert form.nbytes == OUT * INNER // 8 + 3 * OUT * INNER // 2 // 8 + 2 * OUT
    assert int((form.to_dense() != 0).sum()) <= OUT * INNER // 2


def test_in_patterns_of_n_of_m_every_group_keeps_n():
    form = PruneAndQuantize(ALPS(pattern="2:4"), GPTQ(3)).decompose(heavy(), full())
    assert isinstance(form, Sparse)
    assert bool((form.mask.view(OUT, -1, 4).sum(dim=2) == 2).all())
    assert bool((form.to_dense()[~form.mask] == 0).all())


def test_values_of_one_row_are_noted():
    form = PruneAndQuantize(ALPS(0.5), GPTQ(3, 16)).decompose(heavy(), full())
    assert "the values were taken as one row" in " ".join(form.notes)


def test_a_part_that_is_nearer_comes_back():
    """At 2 bits for half of the weights, the index takes what one more bit for all would."""
    weight = random(OUT, INNER)
    form = PruneAndQuantize(ALPS(0.3, within="row"), GPTQ(3)).decompose(weight, full())
    assert isinstance(form, Quantized)
    assert "instead of a hybrid: Sparse 48→20, 29.2 % zeros (bitmask), values Quan" in " ".join(
        form.notes
    )


def test_a_zero_weight_comes_back():
    method = PruneAndQuantize(ALPS(0.5), GPTQ(3))
    assert not bool(method.decompose(torch.zeros(OUT, INNER), full()).to_dense().any())


@pytest.mark.parametrize(
    ("pruning", "quantization", "text"),
    [
        (GPTQ(3), GPTQ(3), "pruning=GPTQ.* must be of class ALPS"),
        (ALPS(0.5), Quantization(3), "quantization=Quantization.* must be of class GPTQ"),
        (ALPS(0.5), GPTQ(3, 8, groups="dynamic"), "groups='dynamic' are of columns"),
    ],
)
def test_bad_hyperparameters_are_refused(pruning, quantization, text):
    with pytest.raises(ValueError, match=text):
        PruneAndQuantize(pruning, quantization)


def test_the_kernel_is_seen_as_pruning_sees_it():
    for pattern, sparsity in (("unstructured", 0.5), ("2:4", None)):
        pruning = ALPS(sparsity, pattern=pattern)
        assert PruneAndQuantize(pruning, GPTQ(3)).kernel_view() == pruning.kernel_view()
