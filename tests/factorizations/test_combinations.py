"""The algebra: products, sums and scalings of factorizations."""

import json

import pytest
import torch
from made_tensors import random_by_sum as random

from lowrank.factorizations import Dense, Product, Scaled, Sum, rebuild


def dense(*shape: int) -> Dense:
    return Dense(random(*shape))


def low_rank(out: int = 7, rank: int = 2, inner: int = 5) -> Product:
    return Product(dense(out, rank), dense(rank, inner))


def test_a_product_is_the_matrix_product_of_its_factors():
    form = Product(dense(7, 4), dense(4, 3), dense(3, 5))
    first, second, third = (f.to_dense() for f in form.factors)
    torch.testing.assert_close(form.to_dense(), first @ (second @ third))
    assert form.shape == (7, 5)


def test_a_sum_is_the_sum_of_its_terms():
    form = Sum(dense(7, 5), low_rank(), low_rank(rank=3))
    torch.testing.assert_close(form.to_dense(), sum(t.to_dense() for t in form.terms))


def test_a_scaled_form_is_its_multiple():
    form = Scaled(low_rank(), -2.5)
    torch.testing.assert_close(form.to_dense(), -2.5 * form.term.to_dense())


def test_params_are_those_of_all_leaves():
    assert low_rank(1000, 100, 1000).params == 200_000
    assert Sum(dense(7, 5), Scaled(low_rank(), 2.0)).params == 35 + 2 * (7 + 5)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (dense(256, 512), "Dense 512→256"),
        (low_rank(256, 32, 512), "LowRank 512→32→256"),
        (Product(dense(9, 2), dense(2, 3), dense(3, 5)), "LowRank 5→3→2→9"),
        (Sum(dense(7, 5), low_rank()), "Sum(Dense 5→7, LowRank 5→2→7)"),
        (Scaled(low_rank(), 0.5), "0.5·LowRank 5→2→7"),
        (Scaled(low_rank(), 0.5, dropout=0.25), "0.5·LowRank 5→2→7 with dropout 0.25"),
        (Product(dense(7, 4), low_rank(4)), "Product(Dense 4→7, LowRank 5→2→4)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_describes_itself_for_people(form, text):
    assert form.describe() == repr(form) == text


FORMS = {
    "dense": dense(7, 5),
    "product": low_rank(),
    "sum": Sum(dense(7, 5), low_rank()),
    "scaled": Scaled(low_rank(), 0.3, 0.2),
    "nested": Sum(Product(dense(7, 4), Sum(dense(4, 5), low_rank(4))), Scaled(low_rank(), 3.0)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
class TestEveryForm:
    def test_comes_back_from_json_and_tensors(self, form):
        copy = rebuild(json.loads(json.dumps(form.config())))
        copy.load_state_dict(form.state_dict())
        form.eval(), copy.eval()
        x = random(3, 5)
        assert torch.equal(copy(x), form(x))
        assert copy.config() == form.config()
        assert copy.describe() == form.describe()

    def test_map_dense_reaches_every_dense_leaf_and_keeps_the_form(self, form):
        seen = []

        def half(leaf: Dense) -> Dense:
            seen.append(leaf)
            return Dense(leaf.weight)

        mapped = form.map_dense(half)
        assert mapped.config() == form.config()
        assert torch.equal(mapped.to_dense(), form.to_dense())
        assert [id(leaf) for leaf in seen] == [id(m) for m in form.modules() if type(m) is Dense]

    def test_map_dense_keeps_the_note(self, form):
        noted = rebuild(form.config())
        noted.notes = ("why",)
        assert noted.map_dense(lambda leaf: leaf).notes == ("why",)

    def test_moves_to_another_dtype(self, form):
        copy = rebuild(form.config())
        copy.load_state_dict(form.state_dict())
        assert copy.to(torch.float32).to_dense().dtype == torch.float32

    def test_gradients_reach_every_leaf(self, form):
        form.zero_grad()
        form.eval()(random(3, 5)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in form.parameters())


def test_dropout_acts_on_the_scaled_branch_alone_and_only_in_training():
    form = Sum(dense(7, 5), Scaled(low_rank(), 2.0, dropout=0.5))
    x = random(4, 5)
    plain = x @ form.to_dense().T
    form.eval()
    torch.testing.assert_close(form(x), plain)
    form.train()
    torch.manual_seed(0)
    first, second = form(x), form(x)
    assert not torch.allclose(first, second)
    # The mean over many draws is the output without dropout.
    mean = torch.stack([form(x) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, plain, rtol=0.2, atol=0.5)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Product(dense(3, 4)), "at least 2 factors, got 1"),
        (lambda: Product(dense(3, 4), dense(5, 3)), r"do not agree .*\(3, 4\) @ \(5, 3\)"),
        (lambda: Sum(dense(3, 4)), "at least 2 terms, got 1"),
        (lambda: Sum(dense(3, 4), dense(4, 3)), r"differ in shape: .*\(3, 4\), \(4, 3\)"),
        (lambda: Scaled(dense(3, 4), 1.0, dropout=1.0), r"dropout=1.0 must lie in \[0, 1\)"),
        (lambda: Scaled(dense(3, 4), 1.0, dropout=-0.1), r"dropout=-0.1 must lie in \[0, 1\)"),
        (lambda: Dense(random(3, 4, 5)), r"needs a matrix, not shape \(3, 4, 5\)"),
        (lambda: rebuild({"type": "Tensor"}), "type 'Tensor' is not known; known are .*'Dense'"),
        (lambda: rebuild({}), "config lacks .type."),
    ],
)
def test_what_does_not_fit_is_refused(build, text):
    with pytest.raises(ValueError, match=text):
        build()
