"""Singular vectors by the Gram matrix are as near as the best, and the check knows when not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random
from torch import Tensor

from lowrank.decomposers import TruncatedSVD
from lowrank.numerics import spectral
from lowrank.numerics.memo import MEMO
from lowrank.numerics.spectral import TOLERANCE, leading, singular_values


@pytest.fixture(autouse=True)
def small_matrices_too(monkeypatch):
    """The routes that are meant for large matrices."""
    monkeypatch.setattr(spectral, "SMALL", 2)
    MEMO.clear()


def with_values(values: Tensor, out: int, inner: int, seed: int = 0) -> Tensor:
    """A matrix with these singular values, float64."""
    u, v = (torch.linalg.qr(random(n, len(values), seed=seed + n))[0] for n in (out, inner))
    return (u * values) @ v.T


def least_errors(matrix: Tensor) -> np.ndarray:
    """Of ranks 0, 1, …, by another library."""
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    return np.sqrt(np.append(np.cumsum(values[::-1] ** 2)[::-1], 0.0))


def rounding_errors(matrix: Tensor) -> float:
    """Of the factors as they are stored, and of a backward stable algorithm.

    Of the latter LAPACK's own tests allow 50 max(m, n) units for the residual of a decomposition.
    """
    steps = 4 if matrix.dtype == torch.float32 else 50 * max(matrix.shape)
    return steps * torch.finfo(matrix.dtype).eps * float(matrix.norm())


def error(matrix: Tensor, found, rank: int) -> float:
    u, s, vh = (part.double() for part in (found.u, found.s, found.vh))
    return float((matrix.double() - (u[:, :rank] * s[:rank]) @ vh[:rank]).norm())


def spectrum(kind: str, count: int) -> Tensor:
    index = torch.arange(count, dtype=torch.float64)
    return {
        "slow": (index + 1) ** -0.5,
        "flat": torch.ones(count, dtype=torch.float64),
        "clusters": 2.0 ** -(index // 5),
        "nearly equal": 1 + 1e-7 * index.flip(0),
        "geometric": 10 ** (-12 * index / max(1, count - 1)),
        "low rank": (index < 3) * 1.0,
        "cliff": torch.where(index < count // 2, 1.0, 1e-5),
        "one large": torch.where(index < 1, 1e4, 1.0),
    }[kind]


kinds = st.sampled_from(
    ["slow", "flat", "clusters", "nearly equal", "geometric", "low rank", "cliff", "one large"]
)
sizes = st.integers(2, 80)


@settings(max_examples=150)
@given(kinds, sizes, sizes, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 99))
def test_at_every_rank_the_error_is_the_least(kind, out, inner, dtype, seed):
    count = min(out, inner)
    matrix = with_values(spectrum(kind, count), out, inner, seed).to(dtype)
    least = least_errors(matrix)
    rounding = rounding_errors(matrix)
    for rank in {0, 1, count // 4, count // 2, count - 1, count}:
        found, _ = leading(matrix, rank)
        assert error(matrix, found, rank) <= (1 + TOLERANCE) * least[rank] + rounding


@settings(max_examples=100)
@given(kinds, st.integers(3, 40), st.floats(-9, -2), st.integers(0, 999))
def test_the_bounds_hold_of_any_orthogonal_vectors(kind, count, size, seed):
    """Of vectors that are turned away from the singular ones by any little angle."""
    matrix = with_values(spectrum(kind, count), count + 5, count, seed)
    turn = random(count, count, seed=seed + 1)
    _, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    vectors = torch.linalg.matrix_exp(10**size * (turn - turn.T)) @ vh
    images = vectors @ matrix.T
    order = images.square().sum(dim=1).argsort(descending=True)
    images, vectors = images[order], vectors[order]
    values = torch.linalg.eigvalsh(images @ images.T).flip(0)
    excess = (values - images.square().sum(dim=1)).cumsum(0)
    rounding = 1e-14 * float(values.sum())
    pairs = spectral.by_pairs(images, count)[1:]
    assert bool((excess <= pairs + rounding).all())
    # Four vectors short of a chi-square with eight degrees are one of a million.
    assert bool((excess <= spectral.by_sum(images, count)[1:] + rounding).all())


def test_the_bound_is_within_a_small_factor_of_the_truth():
    matrix = with_values(spectrum("slow", 60), 60, 60)
    turn = random(60, 60, seed=1)
    _, _, vh = torch.linalg.svd(matrix)
    images = torch.linalg.matrix_exp(1e-6 * (turn - turn.T)) @ vh @ matrix.T
    gram = images @ images.T
    excess = (torch.linalg.eigvalsh(gram).flip(0) - gram.diagonal()).cumsum(0)[:50]
    bound = spectral.by_pairs(images, 59)[1:51]
    assert bool((bound < 6 * excess).all())


@pytest.mark.parametrize("kind", ["geometric", "low rank", "cliff", "one large"])
def test_where_float32_is_not_enough_the_check_says_so_and_float64_is_taken(kind):
    matrix = with_values(spectrum(kind, 60), 70, 60).float()
    rank = 31 if kind == "cliff" else 25
    least = least_errors(matrix)[rank]
    plain = spectral.analysis(matrix, route="float32")
    if kind != "one large":  # There the vectors are good enough, and only cannot be known to be.
        assert error(matrix, plain, rank) > (1 + TOLERANCE) * least
    assert float(plain.excess[rank]) > TOLERANCE
    found, notes = leading(matrix, rank)
    assert "Gram matrix not taken: its excess over the least error may be" in notes[0]
    assert error(matrix, found, rank) <= (1 + TOLERANCE) * least + 1e-7 * least_errors(matrix)[0]
    assert TruncatedSVD(rank=rank).decompose(matrix).notes == notes


def test_where_float64_is_not_enough_the_svd_is_taken():
    matrix = with_values(spectrum("geometric", 60), 60, 60)
    plain = spectral.analysis(matrix, route="float64")
    least = least_errors(matrix)
    assert error(matrix, plain, 50) > (1 + TOLERANCE) * least[50]
    found, notes = leading(matrix, 50)
    assert notes[0].startswith("float64 Gram matrix not taken")
    assert error(matrix, found, 50) <= (1 + TOLERANCE) * least[50]
    assert leading(matrix, 5).notes == ()


@pytest.mark.parametrize("shape", [(400, 400), (400, 900), (900, 400)])
def test_a_slowly_falling_spectrum_is_done_in_float32(shape, monkeypatch):
    monkeypatch.undo()
    matrix = with_values(spectrum("slow", 400), *shape).float()
    assert spectral.routes(matrix)[0] == "float32"
    for rank in (1, 50, 199):
        found, notes = leading(matrix, rank)
        assert notes == ()
        assert error(matrix, found, rank) <= (1 + TOLERANCE) * least_errors(matrix)[rank]
    assert (MEMO.hits, MEMO.misses) == (2, 1)


def test_vectors_that_are_not_orthogonal_are_noticed(monkeypatch):
    eigh = torch.linalg.eigh

    def sloppy(matrix):
        values, vectors = eigh(matrix)
        return values, vectors * (1 + 1e-2 * random(1, vectors.shape[-1]).to(vectors))

    matrix = with_values(spectrum("slow", 60), 60, 60)
    assert leading(matrix, 20).notes == ()
    MEMO.clear()
    monkeypatch.setattr(torch.linalg, "eigh", sloppy)
    assert leading(matrix, 20).notes[0].startswith("float64 Gram matrix not taken")


@settings(max_examples=60)
@given(kinds, sizes, sizes, st.integers(0, 99))
def test_the_left_basis_is_orthonormal_and_spans_the_leading_part(kind, out, inner, seed):
    matrix = with_values(spectrum(kind, min(out, inner)), out, inner, seed)
    rank = max(1, min(out, inner) // 3)
    found, _ = leading(matrix, rank)
    basis, least = found.basis(rank), least_errors(matrix)
    torch.testing.assert_close(basis.T @ basis, torch.eye(rank, dtype=torch.float64))
    projected = float((matrix - basis @ (basis.T @ matrix)).norm())
    assert projected <= (1 + TOLERANCE) * least[rank] + 1e-14 * least[0]


@settings(max_examples=60)
@given(kinds, sizes, sizes, st.sampled_from([torch.float32, torch.float64]))
def test_singular_values_leave_the_least_errors(kind, out, inner, dtype):
    matrix = with_values(spectrum(kind, min(out, inner)), out, inner).to(dtype)
    rank = out * inner // (out + inner)
    values, least = singular_values(matrix, rank), least_errors(matrix)
    assert values.dtype == torch.float64 and bool((values.diff() <= 0).all())
    rounding = rounding_errors(matrix)
    for r in range(rank + 1):
        assert float(values[r:].norm()) == pytest.approx(least[r], rel=2 * TOLERANCE, abs=rounding)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_square_overflows_or_vanishes(scale):
    matrix = with_values(spectrum("slow", 60), 60, 80).float()
    expected, _ = leading(matrix, 20)
    found, notes = leading(matrix * scale, 20)
    assert notes == ()
    torch.testing.assert_close(found.s[:20] / scale, expected.s[:20])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_matrix_has_zero_values(dtype):
    found, notes = leading(torch.zeros(50, 60, dtype=dtype), 10)
    assert notes == () and not bool(found.s.any()) and bool(found.u.isfinite().all())


def test_the_same_matrix_gives_the_same_numbers():
    matrix = random(70, 60).float()
    first, _ = leading(matrix, 20)
    MEMO.clear()
    second, _ = leading(matrix, 20)
    for one, other in zip(
        (first.u, first.s, first.vh), (second.u, second.s, second.vh), strict=True
    ):
        assert torch.equal(one, other)


def test_what_is_kept_counts_in_the_memory_of_kernels():
    matrix = random(70, 60).float()
    leading(matrix, 20)
    assert MEMO._bytes >= sum(part.nbytes for part in leading(matrix, 20).found)


def test_large_and_small_matrices_take_other_routes(monkeypatch):
    monkeypatch.setattr(spectral, "SMALL", 10)
    monkeypatch.setattr(spectral, "LARGE", 20)
    assert spectral.routes(random(9, 50).float()) == ("svd",)
    assert spectral.routes(random(15, 50).float()) == ("float32", "float64", "svd")
    assert spectral.routes(random(15, 50)) == ("float64", "svd")
    assert spectral.routes(random(21, 21).float()) == ("float64", "svd")
