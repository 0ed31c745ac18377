import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random, tensor_bytes

from lowrank.decomposers import ALPS, MagnitudePruning, SparseGPT
from lowrank.norms import Diagonal, Full, Identity
from lowrank.numerics.memo import MEMO
from lowrank.numerics.survivors import exact_update


def correlated(samples, columns, seed=0):
    """Inputs that share much: fewer causes than inputs, and some noise."""
    causes = random(samples, max(1, columns // 2), seed=seed)
    mixing = random(max(1, columns // 2), columns, seed=seed + 1)
    return causes @ mixing + 0.3 * random(samples, columns, seed=seed + 2)


def full_norm(inputs, rows=None, damping=0.0):
    return Full(inputs.T @ inputs / len(inputs), rows, damping)


patterns = st.sampled_from(
    [
        {"sparsity": 0.5},
        {"sparsity": 0.7, "within": "row"},
        {"pattern": "2:4"},
        {"pattern": "1:3"},
        {"sparsity": 0.5, "pattern": "rows"},
        {"sparsity": 0.5, "pattern": "columns"},
        {"sparsity": 0.5, "pattern": "3x2"},
        {"compression_ratio": 2.0, "pattern": "4x4"},
    ]
)


@settings(max_examples=60)
@given(
    options=patterns,
    shape=st.tuples(st.integers(2, 9), st.integers(4, 15)),
    samples=st.integers(1, 40),
    dead=st.sets(st.integers(0, 2)),
    damping=st.sampled_from([0.0, 0.01]),
    seed=st.integers(0, 999),
)
def test_it_is_never_worse_than_wanda(options, shape, samples, dead, damping, seed):
    """In the full norm, at one pattern and as many bytes, nearer than Wanda."""
    weight = random(*shape, seed=seed)
    inputs = correlated(samples, shape[1], seed=seed + 1) * 10 ** random(shape[1], seed=seed + 3)
    inputs[:, list(dead)] = 0
    norm = full_norm(inputs, random(shape[0], seed=seed + 2).square(), damping)
    try:
        full = ALPS(**options, iterations=20).decompose(weight, norm)
    except ValueError as error:
        assert "out of reach" in str(error)
        return
    assert bool(full.to_dense().isfinite().all())
    stored = tensor_bytes(full)
    assert stored <= weight.nbytes / options.get("compression_ratio", 0.9)
    wanda = MagnitudePruning(**options).decompose(
        weight, Diagonal(norm.moment.diagonal(), norm.rows)
    )
    kept, kept_by_wanda = (form.config()["kept_blocks"] for form in (full, wanda))
    if "compression_ratio" in options:  # Blocks at the edge are smaller, and more of them fit.
        assert kept <= kept_by_wanda
    else:
        assert kept == kept_by_wanda
    if kept == kept_by_wanda:
        error = norm(weight - full.to_dense())
        assert error <= norm(weight - wanda.to_dense()) + 1e-6 * norm(weight)


def test_for_two_of_six_it_mostly_finds_the_best_mask_of_all():
    """Against every mask, each with its least squares."""
    found = 0
    for seed in range(40):
        weight, norm = random(1, 6, seed=seed), full_norm(correlated(30, 6, seed=seed + 100))
        error = norm(weight - ALPS(4 / 6).decompose(weight, norm).to_dense())
        errors = []
        for places in itertools.combinations(range(6), 2):
            kept = torch.zeros(1, 6, dtype=torch.bool)
            kept[0, list(places)] = True
            errors.append(norm(weight - exact_update(weight, kept, norm.moment)))
        assert error >= min(errors) - 1e-12
        assert error <= sorted(errors)[7] + 1e-12
        found += error <= min(errors) + 1e-9
    assert found >= 25


@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"sparsity": 0.7}, {"pattern": "2:4"}])
def test_its_masks_are_nearer_than_those_of_sparsegpt(options):
    for seed in range(3):
        weight, norm = random(40, 60, seed=seed), full_norm(correlated(200, 60, seed=seed + 9))
        alps = norm(weight - ALPS(**options).decompose(weight, norm).to_dense())
        sparsegpt = norm(weight - SparseGPT(**options).decompose(weight, norm).to_dense())
        assert alps < 0.98 * sparsegpt


def test_values_are_the_best_for_the_mask():
    weight, norm = random(6, 12), full_norm(correlated(40, 12))
    form = ALPS(0.5).decompose(weight, norm)
    assert torch.equal(form.to_dense(), exact_update(weight, form.mask, norm.moment))


@given(patterns, st.integers(0, 99))
def test_without_pairs_of_inputs_it_is_magnitude_and_wanda(options, seed):
    weight = random(8, 12, seed=seed)
    columns, rows = random(12, seed=seed + 1).square(), random(8, seed=seed + 2).square()
    for norm in (Identity(), Diagonal(columns, rows), Full(torch.diag(columns), rows)):
        like = norm if not isinstance(norm, Full) else Diagonal(columns, rows)
        expected = MagnitudePruning(**options).decompose(weight, like).to_dense()
        assert torch.equal(ALPS(**options).decompose(weight, norm).to_dense(), expected)


def test_where_wanda_has_the_better_mask_it_is_taken_and_said(monkeypatch):
    weight, norm = random(6, 8), full_norm(correlated(40, 8))

    def worst(scaled, moment, project, iterations):
        return ~project(scaled)

    monkeypatch.setattr("lowrank.approximation.sparse_part.alternate", worst)
    form = ALPS(0.5).decompose(weight, norm)
    wanda = MagnitudePruning(0.5).decompose(weight, Diagonal(norm.moment.diagonal()))
    assert torch.equal(form.mask, wanda.mask)
    assert form.notes == ("the mask is Wanda's: alternating directions found no better one",)
    assert norm(weight - form.to_dense()) <= norm(weight - wanda.to_dense())


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_weight_and_inputs_changes_no_choice(scale):
    weight, moment = random(6, 10), full_norm(correlated(40, 10)).moment
    expected = ALPS(0.5).decompose(weight, Full(moment))
    for form in (
        ALPS(0.5).decompose(weight * scale, Full(moment)),
        ALPS(0.5).decompose(weight, Full(moment * scale)),
    ):
        assert torch.equal(form.mask, expected.mask)


def test_one_spectrum_serves_all_sparsities(monkeypatch):
    MEMO.clear()
    computed = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: computed.append(1) or eigh(matrix))
    weight, norm = random(6, 10), full_norm(correlated(40, 10))
    for sparsity in (0.3, 0.5, 0.7):
        ALPS(sparsity).decompose(weight, norm)
    assert len(computed) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sparsity": 0.5, "iterations": 1}, "iterations=1 must be at least 2 and an integer"),
        ({"sparsity": 1.5}, r"sparsity=1.5 must lie in \[0, 1\)"),
        ({"pattern": "2:4", "within": "row"}, "already says what competes"),
    ],
)
def test_bad_options(options, text):
    with pytest.raises(ValueError, match=text):
        ALPS(**options)
