"""The nearest matrix of a rank in every norm, against solutions found in other ways."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from torch import Tensor

from lowrank.approximation.low_rank import nearest, spectrum
from lowrank.decomposers import TruncatedSVD
from lowrank.norms import IDENTITY, Diagonal, Full, Identity, Norm
from lowrank.numerics import spectral
from lowrank.numerics.factors import equally_scaled
from lowrank.numerics.memo import MEMO

OUT, INNER = 7, 6


def moment(samples: int = 40, inner: int = INNER, seed: int = 0) -> Tensor:
    """E[x xᵀ] of correlated inputs of unequal strength."""
    x = random(samples, inner, seed=seed) @ random(inner, inner, seed=seed + 1)
    return x.T @ x / samples


def positive(length: int, seed: int = 0) -> Tensor:
    return random(length, seed=seed).exp()


def product(weight: Tensor, rank: int, norm: Norm) -> Tensor:
    left, right, _ = nearest(weight, rank, norm)
    assert left.shape == (weight.shape[0], rank) and right.shape == (rank, weight.shape[1])
    return left @ right


def alternating(weight: Tensor, rank: int, a: Tensor, b: Tensor, seed: int) -> float:
    """The squared error that alternating least squares over all entries arrives at."""
    whole = torch.kron(torch.diag(a.sqrt()), torch.linalg.cholesky(b).T)  # of row-major entries
    target = whole @ weight.flatten()
    left, right = random(weight.shape[0], rank, seed=seed), torch.empty(0)
    eye_in = torch.eye(weight.shape[1], dtype=torch.float64)
    eye_out = torch.eye(weight.shape[0], dtype=torch.float64)
    for _ in range(400):
        by_right = whole @ torch.kron(left, eye_in)
        right = torch.linalg.lstsq(by_right, target).solution.view(rank, -1)
        by_left = whole @ torch.kron(eye_out, right.T.clone(memory_format=torch.contiguous_format))
        left = torch.linalg.lstsq(by_left, target).solution.view(-1, rank)
    return float((target - whole @ (left @ right).flatten()).square().sum())


NORMS = {
    "columns": (Diagonal(columns=positive(INNER)), torch.ones(OUT), torch.diag(positive(INNER))),
    "rows": (Diagonal(rows=positive(OUT)), positive(OUT), torch.eye(INNER)),
    "columns and rows": (
        Diagonal(positive(INNER, seed=1), positive(OUT)),
        positive(OUT),
        torch.diag(positive(INNER, seed=1)),
    ),
    "full": (Full(moment()), torch.ones(OUT), moment()),
    "full and rows": (Full(moment(), positive(OUT)), positive(OUT), moment()),
}


@pytest.mark.parametrize(("norm", "a", "b"), NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize("rank", [1, 3])
def test_it_is_what_alternating_least_squares_finds_at_best(norm, a, b, rank):
    weight = random(OUT, INNER)
    ours = norm(weight - product(weight, rank, norm)) ** 2
    others = [alternating(weight, rank, a.double(), b.double(), seed) for seed in range(1, 4)]
    assert ours <= min(others) * (1 + 1e-9)
    assert ours == pytest.approx(min(others), rel=1e-5)


@settings(max_examples=40)
@given(st.integers(3, 20), st.integers(3, 20), st.integers(0, 1000))
def test_it_is_the_textbooks_where_that_can_be_computed(out, inner, seed):
    """SVD-LLM: W L = u s vᵀ for B = L Lᵀ, and Ŵ = u s vᵀ L⁻¹."""
    weight, b = random(out, inner, seed=seed), moment(3 * inner, inner, seed)
    rank = min(out, inner) // 2
    factor = np.linalg.cholesky(b.numpy())
    u, s, vh = np.linalg.svd(weight.numpy() @ factor, full_matrices=False)
    textbook = (u[:, :rank] * s[:rank]) @ vh[:rank] @ np.linalg.inv(factor)
    ours = product(weight, rank, Full(b))
    np.testing.assert_allclose(ours.numpy(), textbook, rtol=1e-5, atol=1e-6 * abs(textbook).max())


@settings(max_examples=40)
@given(st.integers(4, 12), st.integers(4, 12), st.integers(1, 30), st.integers(0, 1000))
def test_the_outputs_are_the_best_of_that_rank_also_for_few_samples(out, inner, samples, seed):
    """DRONE: min ‖W X − Ŵ X‖ over Ŵ of a rank is the truncated SVD of the outputs W X."""
    weight, x = random(out, inner, seed=seed), random(inner, samples, seed=seed + 1)
    norm = Full(x @ x.T)
    for rank in range(1, min(out, inner)):
        error = np.linalg.norm((weight - product(weight, rank, norm)).numpy() @ x.numpy())
        rest = np.linalg.svd((weight @ x).numpy(), compute_uv=False)[rank:]
        assert error == pytest.approx(np.linalg.norm(rest), rel=1e-6, abs=1e-6)


@settings(max_examples=60)
@given(st.integers(4, 15), st.integers(4, 15), st.integers(1, 40), st.integers(0, 1000))
def test_each_norm_is_best_served_by_its_own_optimum(out, inner, samples, seed):
    weight, b = random(out, inner, seed=seed), moment(samples, inner, seed)
    norms = [IDENTITY, Diagonal(b.diagonal()), Full(b), Full(b, positive(out, seed), damping=0.01)]
    rank = min(out, inner) // 2
    found = [product(weight, rank, norm) for norm in norms]
    for norm, own in zip(norms, found, strict=True):
        best, scale = norm(weight - own), norm(weight)
        assert all(best <= norm(weight - other) + 1e-7 * scale for other in found)


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_error_is_known_beforehand(seed, rank):
    weight = random(OUT, INNER, seed=seed)
    for norm in (IDENTITY, Diagonal(positive(INNER), positive(OUT)), Full(moment(), positive(OUT))):
        s = spectrum(weight, norm)
        assert s.square().sum().sqrt() == pytest.approx(norm(weight))
        rest = s[rank:].square().sum().sqrt()
        assert norm(weight - product(weight, rank, norm)) == pytest.approx(rest)


@pytest.mark.parametrize("norm", [Diagonal(torch.ones(INNER)), Full(torch.eye(INNER))])
def test_what_counts_all_the_same_is_the_plain_norm(norm):
    weight = random(OUT, INNER)
    for ours, plain in zip(
        nearest(weight, 3, norm)[:2], nearest(weight, 3, IDENTITY), strict=False
    ):
        torch.testing.assert_close(ours.abs(), plain.abs())  # Each component up to its sign.
    torch.testing.assert_close(product(weight, 3, norm), product(weight, 3, IDENTITY))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_the_plain_norm_a_small_weight_takes_the_svd_of_float64_bit_for_bit(dtype):
    weight = random(20, 15).to(dtype)
    parts = torch.linalg.svd(weight.double(), full_matrices=False)
    u, s, vh = (part.to(dtype) for part in parts)
    root = s[:4].sqrt()
    for norm in (IDENTITY, Identity()):
        left, right = TruncatedSVD(rank=4).decompose(weight, norm).state_dict().values()
        assert torch.equal(left, u[:, :4] * root)
        assert torch.equal(right, root[:, None] * vh[:4])


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_the_gram_route_gives_the_same_in_every_norm(shape, monkeypatch):
    weight, rank = random(*shape), 6
    strength = random(shape[1], seed=3).square() + 0.1
    x = random(200, shape[1], seed=4)
    MEMO.clear()
    for norm in (IDENTITY, Diagonal(strength), Full(x.T @ x, random(shape[0]).square() + 0.1)):
        exact = product(weight, rank, norm)
        MEMO.clear()
        monkeypatch.setattr(spectral, "SMALL", 2)
        assert nearest(weight, rank, norm).notes == ()
        torch.testing.assert_close(product(weight, rank, norm), exact)
        torch.testing.assert_close(
            float(spectrum(weight, norm)[rank:].norm()),
            norm(weight - exact),
        )
        monkeypatch.undo()
        MEMO.clear()


@pytest.mark.parametrize("condition", [4, 8, 12])
def test_badly_conditioned_statistics_cost_nothing(condition):
    """Inputs and weight share directions, so that the whitened spectrum is known exactly."""
    inputs = torch.linalg.qr(random(128, 128)).Q
    strengths = torch.logspace(0, -condition, 128, dtype=torch.float64)
    gains = torch.logspace(0, -2, 96, dtype=torch.float64)
    weight = torch.linalg.qr(random(96, 96)).Q * gains @ inputs[:, :96].T
    norm = Full((inputs * strengths) @ inputs.T)
    for rank in (8, 32, 48):
        least = (gains * strengths[:96].sqrt())[rank:].norm()
        excess = norm(weight - product(weight, rank, norm)) / least - 1
        assert excess == pytest.approx(0, abs=1e-6)
        as_stored = TruncatedSVD(rank=rank).decompose(weight.float(), norm).to_dense().double()
        assert norm(weight - as_stored) / least - 1 == pytest.approx(0, abs=1e-6)


class TestSingular:
    """Directions that the data never showed cost nothing, and are still not thrown away."""

    @settings(max_examples=40)
    @given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 1000))
    def test_it_is_the_limit_of_a_damping_that_goes_to_zero(self, rank, samples, seed):
        weight, x = random(OUT, INNER, seed=seed), random(samples, INNER, seed=seed + 1)
        b = x.T @ x / samples
        damped = product(weight, rank, Full(b, damping=1e-9))
        assert torch.linalg.norm(product(weight, rank, Full(b)) - damped) < 1e-3

    def test_the_rest_of_the_rank_goes_where_it_helps_most(self):
        weight, x = random(OUT, INNER), random(1, INNER)
        norm = Full(x.T @ x)
        form = TruncatedSVD(rank=3).decompose(weight, norm)
        found = form.to_dense().detach()
        assert norm(weight - found) < 1e-7 * norm(weight)
        assert form.notes == (
            "the norm sees 1 directions of the weight, the rest are of the plain norm",
        )
        # Of all that are right on x: what its output does not span, truncated.
        output = weight @ x.T
        rest = weight - output @ torch.linalg.lstsq(output, weight).solution
        least = torch.linalg.svdvals(rest)[2:].norm()
        assert torch.linalg.norm(weight - found) == pytest.approx(least)

    @pytest.mark.parametrize("full", [False, True])
    def test_weights_of_dead_inputs_are_projected_and_not_lost(self, full):
        weight, b = random(OUT, INNER), moment()
        dead = [1, 4]
        b[dead], b[:, dead] = 0, 0
        norm = Full(b) if full else Diagonal(b.diagonal())
        left, right, notes = nearest(weight, 2, norm)
        assert notes == ()
        projected = left @ torch.linalg.lstsq(left, weight[:, dead]).solution
        torch.testing.assert_close((left @ right)[:, dead], projected)

    @pytest.mark.parametrize("columns", [None, positive(INNER)])
    def test_rows_that_count_nothing_are_projected_and_cost_nothing(self, columns):
        weight, rows = random(OUT, INNER), positive(OUT)
        idle, live = [0, 5], [1, 2, 3, 4, 6]
        rows[idle] = 0
        left, right, _ = nearest(weight, 3, Diagonal(columns, rows))
        only_live = product(weight[live], 3, Diagonal(columns, rows[live]))
        torch.testing.assert_close((left @ right)[live], only_live)
        projected = torch.linalg.lstsq(right.T, weight[idle].T).solution.T @ right
        torch.testing.assert_close((left @ right)[idle], projected)

    def test_fewer_live_rows_than_the_rank(self):
        rows = torch.zeros(OUT, dtype=torch.float64)
        rows[2] = 1
        weight = random(OUT, INNER)
        found = product(weight, 4, Full(moment(), rows))
        torch.testing.assert_close(found[2], weight[2])
        assert bool(found.isfinite().all())
        assert torch.linalg.norm(weight - found) < torch.linalg.norm(weight)

    def test_a_weight_that_only_dead_inputs_see_is_that_of_the_plain_norm(self):
        weight = random(OUT, INNER)
        weight[:, 2:] = 0
        norm = Diagonal(torch.tensor([0.0, 0, 1, 1, 1, 1]))
        torch.testing.assert_close(product(weight, 1, norm), product(weight, 1, IDENTITY))

    def test_a_zero_weight_stays_zero(self):
        for norm in (Diagonal(positive(INNER)), Full(moment(2))):
            assert bool((product(torch.zeros(OUT, INNER), 3, norm) == 0).all())

    def test_a_weight_of_lower_rank_comes_back(self):
        weight = random(OUT, 2) @ random(2, INNER)
        for norm in (Diagonal(positive(INNER)), Full(moment()), Full(moment(1))):
            torch.testing.assert_close(product(weight, 4, norm), weight)


@settings(max_examples=40)
@given(st.floats(0.05, 0.99), st.integers(0, 1000))
def test_energy_counts_in_the_norm(energy, seed):
    weight = random(30, 40, seed=seed)
    norm = Full(moment(100, 40, seed), positive(30, seed))
    rank = TruncatedSVD(energy=energy).rank_for(weight, norm)
    lost = [(norm(weight - product(weight, r, norm)) / norm(weight)) ** 2 for r in (rank, rank - 1)]
    assert 1 - lost[0] >= energy * (1 - 1e-9)
    assert rank == 1 or 1 - lost[1] < energy * (1 + 1e-9)


def test_all_ranks_cost_one_eigen_decomposition_and_one_svd(monkeypatch):
    calls = []
    for name in ("svd", "eigh"):
        kernel = getattr(torch.linalg, name)
        counting = lambda *args, name=name, kernel=kernel, **options: (  # noqa: E731
            calls.append(name) or kernel(*args, **options)
        )
        monkeypatch.setattr(torch.linalg, name, counting)
    weight, norm = random(30, 20), Full(moment(50, 20))
    MEMO.clear()
    for rank in range(1, 12):
        TruncatedSVD(rank=rank).decompose(weight, norm)
    TruncatedSVD(energy=0.5).decompose(weight, norm)
    assert sorted(calls) == ["eigh", "svd"]


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(0, 1000))
def test_the_factors_are_equally_scaled(rank, seed):
    weight = random(OUT, INNER, seed=seed)
    for norm in (Diagonal(positive(INNER), positive(OUT)), Full(moment(2)), Full(moment() * 1e6)):
        left, right, _ = nearest(weight, rank, norm)
        torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


def test_scaling_keeps_the_product_and_takes_zeros():
    left, right = random(OUT, 3) * torch.tensor([1e8, 1, 0]), random(3, INNER)
    again, other = equally_scaled(left, right)
    torch.testing.assert_close(again @ other, left @ right)
    right[1] = 0
    again, other = equally_scaled(left, right)
    torch.testing.assert_close(again @ other, left @ right)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_dtype_is_kept_and_nothing_overflows(dtype, scale):
    weight = random(24, 36).to(dtype) * scale
    for norm in (Diagonal(positive(36) * 1e-12), Full(moment(9, 36) * 1e12), Full(moment(1, 36))):
        form = TruncatedSVD(rank=4).decompose(weight, norm)
        assert {p.dtype for p in form.parameters()} == {dtype}
        assert norm.relative_error(weight, form.to_dense()) < 1


def test_what_does_not_fit_is_refused():
    text = r"moment of length 5 do not fit a weight of shape \(7, 6\), which needs 6"
    with pytest.raises(ValueError, match=text):
        TruncatedSVD(rank=2).decompose(random(OUT, INNER), Full(moment(inner=5)))
