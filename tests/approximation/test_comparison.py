"""What a hybrid is compared with: never worse in the norm, never more bytes, never silent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from ten_by_twelve import every_norm
from torch import Tensor

from lowrank.approximation.comparison import better_of, error_of, svd_within
from lowrank.factorizations import Dense, Product, Sparse
from lowrank.norms import IDENTITY, Diagonal


def product(weight: Tensor, rank: int) -> Product:
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    return Product(Dense(u[:, :rank] * s[:rank]), Dense(vh[:rank]))


def test_the_hybrid_stays_where_it_is_nearer():
    weight = random(10, 12)
    hybrid = product(weight, 4)
    assert better_of(weight, IDENTITY, hybrid, product(weight, 3)) is hybrid
    assert better_of(weight, IDENTITY, hybrid, product(weight, 4)) is hybrid  # a tie
    assert better_of(weight, IDENTITY, hybrid, None) is hybrid
    assert hybrid.notes == ()


def test_the_nearest_part_comes_back_where_one_is_nearer_and_says_so():
    weight = random(10, 12)
    hybrid, near, far = product(random(10, 12, seed=5), 4), product(weight, 4), product(weight, 1)
    near.notes = ("of old",)
    found = better_of(weight, IDENTITY, hybrid, far, None, near)
    assert found is near
    ratio = error_of(weight, IDENTITY, hybrid) / error_of(weight, IDENTITY, near)
    assert found.notes == (
        "of old",
        f"instead of a hybrid: LowRank 12→4→10 of 704 bytes has {ratio:.3g} times its error",
    )


def test_an_exact_part_is_no_division_by_zero():
    weight = random(10, 2) @ random(2, 12)
    part = Dense(weight.clone())
    hybrid = Dense(0.5 * weight)
    assert "has inf times its error" in " ".join(better_of(weight, IDENTITY, hybrid, part).notes)


def test_what_is_not_finite_is_never_returned():
    weight = random(10, 12).float()
    broken = Dense(weight.clone())
    broken.weight.data[3, 4] = torch.nan
    part = product(weight, 1)
    assert better_of(weight, IDENTITY, broken, part) is part
    with pytest.raises(ValueError, match="numbers too large for torch.float32"):
        better_of(weight, IDENTITY, broken, None)


def test_errors_are_in_the_norm_and_of_what_is_stored():
    weight = random(10, 12)
    weight[:, :6] *= 3
    columns = torch.ones(12)
    columns[:6] = 1e-6
    first, last = weight.clone(), weight.clone()
    first[:, 6:] = 0
    last[:, :6] = 0
    last[:, 6:] += 0.1
    norm = Diagonal(columns)
    assert better_of(weight, IDENTITY, Dense(first), Dense(last)).notes == ()
    found = better_of(weight, norm, Dense(first), Dense(last))
    assert torch.equal(found.to_dense(), last)
    # In bfloat16 the stored numbers are what counts, whatever they were made in.
    coarse = weight.bfloat16()
    assert better_of(coarse, IDENTITY, Dense(weight)).to_dense().dtype == torch.bfloat16


def test_a_part_of_more_bytes_is_refused():
    weight = random(10, 12)
    with pytest.raises(ValueError, match="Dense 12→10 takes 960 bytes and LowRank 12→4→10 704"):
        better_of(weight, IDENTITY, product(weight, 4), Dense(weight.clone()))


@every_norm
@settings(max_examples=20)
@given(limit=st.integers(0, 1200))
def test_the_svd_fits_and_one_rank_more_would_not(norm, limit):
    weight = random(10, 12)
    form = svd_within(weight, norm, limit)
    if form is None:
        assert limit < 22 * 8
        return
    assert form.nbytes <= limit
    if isinstance(form, Product):
        assert form.nbytes + 22 * 8 > limit or form.factors[0].shape[1] == 10
        _, s, _ = torch.linalg.svd(norm.whiten(weight))
        wanted = s[form.factors[0].shape[1] :].square().sum().sqrt()
        assert error_of(weight, norm, form) == pytest.approx(float(wanted), rel=1e-6, abs=1e-7)


def test_a_sparse_form_counts_its_index():
    weight = random(10, 12)
    sparse = Sparse.from_dense(weight, weight.abs() > 1)
    assert sparse.nbytes == 8 * int((weight.abs() > 1).sum()) + 15
