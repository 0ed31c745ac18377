"""The nearest sparse matrices within bytes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from ten_by_twelve import every_norm

from lowrank.approximation.sparse_part import sparse_within
from lowrank.factorizations import Sparse


@every_norm
@settings(max_examples=20)
@given(limit=st.integers(0, 1200))
def test_the_sparse_form_fits_and_one_entry_more_would_not(norm, limit):
    weight = random(10, 12)
    form = sparse_within(weight, norm, limit)
    if form is None:
        assert limit < 8 + min(15, 11 + 1)
        return
    assert form.nbytes <= limit
    if isinstance(form, Sparse) and form.params < 120:
        more = torch.zeros(120, dtype=torch.bool)
        more[: form.params + 1] = True
        assert Sparse.from_dense(weight, more.view(10, 12)).nbytes > limit
