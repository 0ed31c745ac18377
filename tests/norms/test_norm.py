"""The laws that every norm keeps, and the statistics that none takes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sides as random
from torch import Tensor

from lowrank.norms import IDENTITY, Diagonal, Full, Identity, Norm, square_root

OUT, INNER = 5, 4


def positive(length: int, seed: int = 0) -> Tensor:
    return random(length, seed=seed).exp()


def moment(samples: int = 9, seed: int = 0) -> Tensor:
    x = random(samples, INNER, seed=seed)
    return x.T @ x / samples


def cases(seed: int = 0) -> dict[str, tuple[Norm, Tensor, Tensor]]:
    """Norms, each with its A (out,) and B (in, in) written out."""
    a, columns, full = positive(OUT, seed), positive(INNER, seed), moment(seed=seed)
    ones, eye = torch.ones(OUT, dtype=torch.float64), torch.eye(INNER, dtype=torch.float64)
    return {
        "identity": (IDENTITY, ones, eye),
        "columns": (Diagonal(columns), ones, columns.diag()),
        "rows": (Diagonal(rows=a), a, eye),
        "both": (Diagonal(columns, a), a, columns.diag()),
        "damped": (
            Diagonal(columns, a, damping=0.1),
            a + 0.1 * a.mean(),
            (columns + 0.1 * columns.mean()).diag(),
        ),
        "full": (Full(full), ones, full),
        "full and rows": (Full(full, a), a, full),
        "full, damped": (
            Full(full, a, damping=0.1),
            a + 0.1 * a.mean(),
            full + 0.1 * full.diagonal().mean() * eye,
        ),
        "full of rank one": (Full(moment(1)), ones, moment(1)),
    }


every_case = pytest.mark.parametrize(("norm", "a", "b"), cases().values(), ids=cases().keys())


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_its_square_is_the_trace(seed):
    weight = random(OUT, INNER, seed=seed)
    for norm, a, b in cases(seed).values():
        trace = (a.diag() @ weight @ b @ weight.T).trace()
        assert norm(weight) ** 2 == pytest.approx(float(trace))


def test_the_full_norm_is_the_mean_square_of_the_outputs():
    x, weight = random(9, INNER), random(OUT, INNER)
    mean = (weight @ x.T).square().sum(dim=0).mean()
    assert Full(x.T @ x / 9)(weight) ** 2 == pytest.approx(float(mean))


@every_case
class TestLaws:
    def test_whitening_makes_it_the_plain_norm(self, norm, a, b):
        for seed in range(5):
            weight = random(OUT, INNER, seed=seed)
            whitened = norm.whiten(weight)
            assert whitened.shape == weight.shape
            assert torch.linalg.matrix_norm(whitened) == pytest.approx(norm(weight))
        # And a linear map, so that differences keep their norms too.
        one, other = random(OUT, INNER, seed=1), random(OUT, INNER, seed=2)
        torch.testing.assert_close(
            norm.whiten(one + 2 * other), norm.whiten(one) + 2 * norm.whiten(other)
        )

    def test_what_it_says_of_itself_is_what_it_is_made_of(self, norm, a, b):
        weight = random(OUT, INNER)
        torch.testing.assert_close(norm.second_moment(weight), b)
        torch.testing.assert_close(norm.row_weights(weight).expand(OUT), a)
        entries = norm.entry_weights(weight)
        torch.testing.assert_close(entries.expand(OUT, INNER), a[:, None] * b.diagonal())
        for values in (norm.second_moment(weight), norm.row_weights(weight), entries):
            assert values.dtype == torch.float64 and values.device == weight.device

    def test_each_entry_alone_counts_its_weight(self, norm, a, b):
        for i, j in ((0, 0), (OUT - 1, 1), (2, INNER - 1)):
            single = torch.zeros(OUT, INNER, dtype=torch.float64)
            single[i, j] = -3
            assert norm(single) ** 2 == pytest.approx(float(9 * a[i] * b[j, j]))

    def test_it_is_a_seminorm(self, norm, a, b):
        one, other = random(OUT, INNER, seed=1), random(OUT, INNER, seed=2)
        assert norm(one + other) <= norm(one) + norm(other)
        assert norm(-2.5 * one) == pytest.approx(2.5 * norm(one))
        assert norm(torch.zeros(OUT, INNER)) == 0

    def test_the_dtype_of_the_weight_is_kept_and_not_that_of_the_sum(self, norm, a, b):
        weight = random(OUT, INNER)
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            rounded = weight.to(dtype)
            assert norm.whiten(rounded).dtype == dtype
            assert norm(rounded) == pytest.approx(norm(rounded.double()), rel=1e-12)

    def test_the_relative_error(self, norm, a, b):
        weight = random(OUT, INNER)
        assert norm.relative_error(weight, weight) == 0
        assert norm.relative_error(weight, torch.zeros_like(weight)) == pytest.approx(1)
        assert norm.relative_error(weight, weight * 0.75) == pytest.approx(0.25)
        near = weight.requires_grad_() * 0.75  # As factorizations give it.
        assert norm.relative_error(weight, near) == pytest.approx(0.25)
        zero = torch.zeros(OUT, INNER)
        assert norm.relative_error(zero, zero) == 0
        with pytest.raises(ValueError, match="relative error of a zero weight is not defined"):
            norm.relative_error(zero, torch.ones(OUT, INNER))

    def test_a_difference_that_has_a_gradient_is_taken(self, norm, a, b):
        assert norm(random(OUT, INNER).requires_grad_() * 2) > 0

    def test_it_changes_nothing(self, norm, a, b):
        weight = random(OUT, INNER)
        before, version = weight.clone(), weight._version
        for use in (norm, norm.whiten, norm.entry_weights):
            use(weight)
        assert torch.equal(weight, before) and weight._version == version


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_without_knowledge_all_norms_are_the_plain_one(seed):
    weight = random(OUT, INNER, seed=seed)
    plain = torch.linalg.matrix_norm(weight)
    ones = torch.ones(INNER), torch.ones(OUT)
    for norm in (
        Identity(),
        Diagonal(*ones),
        Full(torch.eye(INNER)),
        Full(torch.eye(INNER), ones[1]),
    ):
        assert norm(weight) == pytest.approx(plain)
        whitened = torch.linalg.svdvals(norm.whiten(weight))
        torch.testing.assert_close(whitened, torch.linalg.svdvals(weight))


def test_uncorrelated_inputs_make_the_full_norm_diagonal():
    weight, columns, rows = random(OUT, INNER), positive(INNER), positive(OUT)
    full, diagonal = Full(columns.diag(), rows, 0.01), Diagonal(columns, rows, 0.01)
    assert full(weight) == pytest.approx(diagonal(weight))
    torch.testing.assert_close(full.entry_weights(weight), diagonal.entry_weights(weight))


def test_damping_makes_every_direction_count():
    unseen = torch.zeros(OUT, INNER, dtype=torch.float64)
    unseen[:, 2] = 1
    columns = torch.tensor([1.0, 2, 0, 5])
    assert Diagonal(columns)(unseen) == 0 and Full(columns.diag())(unseen) == 0
    # Its share of the mean of 2, in each of five rows.
    for norm in (Diagonal(columns, damping=0.05), Full(columns.diag(), damping=0.05)):
        assert norm(unseen) ** 2 == pytest.approx(5 * 0.05 * 2)


def test_damping_does_not_depend_on_the_scale_of_the_statistics():
    weight, other = random(OUT, INNER), random(OUT, INNER, seed=1)
    for scale in (1e-12, 1e12):
        scaled, plain = Full(moment() * scale, damping=0.01), Full(moment(), damping=0.01)
        assert scaled(weight) / scaled(other) == pytest.approx(plain(weight) / plain(other))


def test_a_plain_norm_is_any_other_plain_norm():
    assert Identity() == IDENTITY and hash(Identity()) == hash(IDENTITY)


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e160, 1e307])
@pytest.mark.parametrize("norm", [IDENTITY, Diagonal(positive(INNER)), Full(moment())])
def test_the_relative_error_of_weights_whose_squares_leave_the_range(norm, size):
    weight = random(OUT, INNER).clamp(-4, 4) * size
    assert norm.relative_error(weight, weight / 2) == pytest.approx(0.5, rel=1e-3)


def test_they_are_told_apart_in_reports():
    norms = [IDENTITY, Diagonal(positive(INNER)), Full(moment(), positive(OUT))]
    assert [norm.describe() for norm in norms] == ["identity", "diagonal", "full"]
    assert [repr(norm) for norm in norms[1:]] == [
        "Diagonal(columns: 4)",
        "Full(moment: 4, rows: 5)",
    ]


class TestSquareRoot:
    @settings(max_examples=30)
    @given(st.integers(1, 9), st.integers(0, 1000))
    def test_it_is_a_root_also_of_a_singular_matrix(self, samples, seed):
        root = square_root(moment(samples, seed))
        torch.testing.assert_close(root @ root.T, moment(samples, seed))
        assert int((root.norm(dim=0) > 0).sum()) == min(samples, INNER)  # No roots of rounding.

    def test_eigenvalues_that_rounding_took_below_zero_are_zero(self):
        rounded = moment(2).float().double()
        root = square_root(rounded)
        assert bool(root.isfinite().all())
        torch.testing.assert_close(root @ root.T, rounded, rtol=1e-6, atol=1e-6)

    def test_an_indefinite_matrix_is_refused(self):
        indefinite = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()
        for refuses in (Full, square_root, lambda b: Full(b, damping=9.0)):
            with pytest.raises(
                ValueError, match="no negative eigenvalues.* has -1 beside 3: calib"
            ):
                refuses(indefinite)

    @pytest.mark.parametrize("width", [3, 40, 400])
    def test_what_rounding_makes_of_a_singular_moment_is_none(self, width):
        x = 5 + random(2, width).float()
        root = square_root(Full(x.T @ x).moment)
        assert bool(root.isfinite().all())


def with_value(values: Tensor, index: tuple[int, ...], value: float) -> Tensor:
    values = values.clone()
    values[index] = value
    return values


NAN, INF = float("nan"), math.inf

BAD = {
    "no statistics": (lambda: Diagonal(), r"needs columns or rows; without either.*Identity\(\)"),
    "columns NaN": (
        lambda: Diagonal(torch.tensor([1.0, NAN, INF])),
        "columns: 2 of 3 are NaN or infinite: calibrate anew",
    ),
    "rows NaN": (lambda: Diagonal(rows=torch.tensor([NAN])), "rows: 1 of 1 are NaN or infinite"),
    "columns negative": (
        lambda: Diagonal(torch.tensor([1.0, -0.5])),
        "columns: -0.5 is negative, and a mean square is not",
    ),
    "columns zero": (
        lambda: Diagonal(torch.zeros(3)),
        "columns: all 3 are zero, so that no error would count",
    ),
    "rows zero": (lambda: Diagonal(torch.ones(3), torch.zeros(2)), "rows: all 2 are zero"),
    "columns a matrix": (
        lambda: Diagonal(torch.eye(3)),
        r"columns: a non-empty vector is needed, not shape \(3, 3\)",
    ),
    "columns empty": (lambda: Diagonal(torch.ones(0)), r"not shape \(0,\)"),
    "moment no square": (
        lambda: Full(torch.ones(2, 3)),
        r"a second moment is a square floating-point matrix, not \(2, 3\) torch.float32",
    ),
    "moment a vector": (lambda: Full(torch.ones(3)), r"square .* matrix, not \(3,\)"),
    "moment integer": (lambda: Full(torch.eye(2).long()), "not .* torch.int64"),
    "moment NaN": (
        lambda: Full(with_value(torch.eye(3), (0, 1), NAN)),
        "1 entries of a second moment are NaN or infinite: calibrate anew",
    ),
    "moment infinite": (
        lambda: Full(with_value(torch.eye(3), (1, 1), INF)),
        "1 entries of a second moment are NaN or infinite: calibrate anew",
    ),
    "moment negative": (
        lambda: Full(with_value(torch.eye(3), (1, 1), -1)),
        "diagonal of a second moment: -1 is negative",
    ),
    "moment zero": (lambda: Full(torch.zeros(3, 3)), "diagonal of a second moment: all 3 are zero"),
    "moment asymmetric": (
        lambda: Full(with_value(torch.eye(3), (0, 1), 0.5)),
        "must be symmetric, and this matrix is not",
    ),
    "rows negative": (
        lambda: Full(torch.eye(3), torch.tensor([-1.0])),
        "rows: -1 is negative",
    ),
    "damping negative": (
        lambda: Full(torch.eye(3), damping=-0.1),
        "damping=-0.1 must be at least 0 and finite",
    ),
    "damping NaN": (lambda: Diagonal(torch.ones(3), damping=NAN), "damping=nan must be at least 0"),
    "damping infinite": (lambda: Diagonal(torch.ones(3), damping=INF), "damping=inf must be"),
}


@pytest.mark.parametrize(("make", "text"), BAD.values(), ids=BAD.keys())
def test_bad_statistics_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_a_moment_whose_sum_float16_cannot_hold_is_a_moment():
    norm = Full(torch.eye(4, dtype=torch.float16) * 60000)
    assert norm(torch.eye(4)) == pytest.approx((4 * 60000) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("norm", "text"),
    [
        (Diagonal(torch.ones(3)), r"columns of length 3 do not fit .* \(5, 4\), which needs 4"),
        (Diagonal(rows=torch.ones(4)), r"rows of length 4 do not fit .* which needs 5"),
        (
            Full(torch.eye(5)),
            r"moment of length 5 .* needs 4: these are statistics of another layer",
        ),
        (Full(torch.eye(4), torch.ones(3)), r"rows of length 3 do not fit .* which needs 5"),
    ],
)
def test_statistics_of_another_layer_are_refused(norm, text):
    with pytest.raises(ValueError, match=text):
        norm.check(random(OUT, INNER))


@every_case
def test_statistics_of_this_layer_fit(norm, a, b):
    norm.check(random(OUT, INNER))
