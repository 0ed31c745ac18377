from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_off_zero as random
from made_tensors import tensor_bytes

from lowrank.decomposers import GPTQ, Quantization
from lowrank.factorizations.packing import unpack
from lowrank.norms import IDENTITY, Diagonal, Full
from lowrank.numerics.curvature import UNPAIRED


def correlated(columns, samples, seed=0, dead=0):
    """The second moment of inputs that come together and differ in size; the first may be dead."""
    mixed = random(samples, columns, seed=seed) @ random(columns, columns, seed=seed + 1)
    mixed = mixed * 10 ** (random(columns, seed=seed + 2).clamp(-1, 1) / 2)
    mixed[:, :dead] = 0
    return mixed.T @ mixed / samples


def level(value, scale, zero, bits):
    return ((value / scale + zero).round().clamp(0, 2**bits - 1) - zero) * scale


def by_obs(weight, moment, method):
    """Optimal brain surgeon in its plain form: the inverse Hessian, one column taken out of it
    after the other, and all columns left changed after each. One row at a time."""
    rows, columns = weight.shape
    bits, size = method.bits, method.group_size
    width = size if isinstance(size, int) else columns
    group = [column // width for column in range(columns)]
    strength = moment.diagonal()
    if method.order == "natural":
        order = list(range(columns))
    elif method.groups == "static":
        order = sorted(range(columns), key=lambda j: (-strength[j].item(), j))
    else:
        best = [max(strength[j].item() for j in range(columns) if group[j] == g) for g in group]
        order = sorted(range(columns), key=lambda j: (-best[j], group[j], -strength[j].item(), j))
    rounding = Quantization(bits, size, method.symmetric, method.scale, method.scale_dtype)
    current, result = weight.clone(), torch.zeros_like(weight)
    inverse, left, levels = torch.linalg.inv(moment[order][:, order]), list(order), {}
    while left:
        j = left[0]
        if group[j] not in levels:
            source = weight if method.groups == "static" else current
            part = [i for i in range(columns) if group[i] == group[j]]
            norm = Diagonal(strength[part])
            levels[group[j]] = rounding.decompose(source[:, part], norm)
        quantized = levels[group[j]]
        for row in range(rows):
            scale, zero = quantized.scale[row].double(), zeros(quantized)[row]
            result[row, j] = level(current[row, j], scale, zero, bits)
            error = (current[row, j] - result[row, j]) / inverse[0, 0]
            for k, i in enumerate(left):
                current[row, i] -= error * inverse[0, k]
        inverse = inverse - torch.outer(inverse[:, 0], inverse[0]) / inverse[0, 0]
        inverse, left = inverse[1:, 1:], left[1:]
    return result


def zeros(quantized):
    """The zero point of each group."""
    layout = quantized.layout
    if quantized.zero is None:
        return torch.full((layout.count,), 2.0 ** (layout.bits - 1))
    return unpack(quantized.zero, layout.bits, layout.count).double()


def check_against_obs(weight, moment, method):
    """The rows of the reference, but for those that round to nearest brings nearer."""
    found = method.decompose(weight, Full(moment))
    nearest = Quantization(
        method.bits, method.group_size, method.symmetric, method.scale, method.scale_dtype
    ).decompose(weight, Diagonal(moment.diagonal()))
    candidates = by_obs(weight, moment, method), nearest.to_dense()
    errors = [torch.stack([e @ moment @ e for e in weight - c]) for c in candidates]
    worse = errors[1] < errors[0]
    torch.testing.assert_close(
        found.to_dense(), torch.where(worse[:, None], candidates[1], candidates[0])
    )
    count = int(worse.sum())
    rows = f"{count} row{'' if count == 1 else 's'}"
    note = f"{rows} rounded to nearest, which is nearer in the norm"
    assert found.notes == ((note,) if count else ())
    assert count < len(weight)


@pytest.mark.parametrize("groups", ["static", "dynamic"])
@pytest.mark.parametrize("order", ["natural", "activation"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("scale", "size"), [("range", 8), ("mse", 10), ("range", "channel")])
def test_it_is_optimal_brain_surgeon_column_by_column(order, groups, symmetric, scale, size):
    method = GPTQ(3, size, symmetric, scale, order=order, groups=groups)
    weight = random(5, 28)
    moment = correlated(28, 100) + 0.01 * torch.eye(28)
    check_against_obs(weight, moment, method)


@pytest.mark.parametrize("groups", ["static", "dynamic"])
def test_more_columns_than_a_block(groups):
    method = GPTQ(4, 48, scale="range", order="activation", groups=groups)
    weight, moment = random(3, 300), correlated(300, 900) + torch.eye(300)
    check_against_obs(weight, moment, method)


options = {
    "bits": st.integers(1, 5),
    "group_size": st.sampled_from(["channel", "tensor", 1, 4, 7]),
    "symmetric": st.booleans(),
    "scale": st.sampled_from(["range", "mse"]),
    "order": st.sampled_from(["natural", "activation"]),
    "groups": st.sampled_from(["static", "dynamic"]),
    "sweeps": st.integers(0, 2),
}


@given(
    method=st.builds(GPTQ, **options),
    samples=st.sampled_from([1, 2, 10, 100]),
    damping=st.sampled_from([0.0, 1e-6, 0.01]),
    dead=st.integers(0, 2),
    seed=st.integers(0, 1000),
)
def test_it_is_never_worse_than_round_to_nearest_in_its_norm(method, samples, damping, dead, seed):
    weight = random(4, 11, seed=seed)
    norm = Full(correlated(11, samples, seed, dead), damping=damping)
    found = method.decompose(weight, norm)
    nearest = Quantization(method.bits, method.group_size, method.symmetric, method.scale)
    rounded = nearest.decompose(weight, Diagonal(norm.moment.diagonal()))
    assert norm(weight - found.to_dense()) <= norm(weight - rounded.to_dense()) * (1 + 1e-9)
    stored = [tensor_bytes(f) for f in (found, rounded)]
    assert stored[0] == stored[1]


@given(method=st.builds(GPTQ, **options), seed=st.integers(0, 1000))
def test_without_correlation_it_is_round_to_nearest(method, seed):
    weight = random(5, 11, seed=seed)
    nearest = Quantization(method.bits, method.group_size, method.symmetric, method.scale)
    strength = random(11, seed=seed).square()
    norms = (IDENTITY, IDENTITY), (Diagonal(strength), Diagonal(strength))
    for mine, theirs in (*norms, (Full(torch.diag(strength)), Diagonal(strength))):
        found, expected = method.decompose(weight, mine), nearest.decompose(weight, theirs)
        assert torch.equal(found.to_dense(), expected.to_dense())
        assert found.notes == (*expected.notes, UNPAIRED)


def test_compensation_is_worth_much_where_inputs_come_together():
    weight, norm = random(32, 64), Full(correlated(64, 640), damping=0.01)
    errors = [
        norm.relative_error(weight, method.decompose(weight, given).to_dense())
        for method, given in (
            (Quantization(3, 16, scale="mse"), Diagonal(norm.moment.diagonal())),
            (GPTQ(3, 16), norm),
            (GPTQ(3, 16, sweeps=3), norm),
        )
    ]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.98 * errors[1]


@given(method=st.builds(GPTQ, **(options | {"sweeps": st.just(0)})), seed=st.integers(0, 1000))
def test_a_sweep_never_makes_the_error_larger(method, seed):
    weight, norm = random(3, 9, seed=seed), Full(correlated(9, 20, seed))
    errors = [
        norm(weight - replace(method, sweeps=sweeps).decompose(weight, norm).to_dense())
        for sweeps in range(4)
    ]
    for more, less in zip(errors, errors[1:], strict=False):
        assert less <= more * (1 + 1e-9)


def test_a_singular_moment_is_raised_and_the_report_says_so():
    weight, x = random(6, 12), random(12)
    found = GPTQ(4, 4).decompose(weight, Full(torch.outer(x, x)))
    assert "singular second moment: its diagonal raised by 1e-" in " ".join(found.notes)
    damped = GPTQ(4, 4).decompose(weight, Full(torch.outer(x, x), damping=0.01))
    assert "singular" not in " ".join(damped.notes)


def test_one_direction_of_input_is_made_exact_by_its_many_weights():
    """Of a rank-one moment only W x counts, which 40 rounded weights can meet nearly exactly."""
    weight, x = random(6, 40), random(40)
    norm = Full(torch.outer(x, x))
    nearest = Quantization(4, 8).decompose(weight).to_dense()
    found = GPTQ(4, 8).decompose(weight, norm).to_dense()
    assert norm(weight - found) < 0.05 * norm(weight - nearest)


@pytest.mark.parametrize("groups", ["static", "dynamic"])
def test_inputs_that_are_always_zero_are_rounded_and_disturb_nothing(groups):
    weight, moment = random(5, 16), correlated(16, 200, dead=4)
    method = GPTQ(3, 4, groups=groups, scale="range")
    found = method.decompose(weight, Full(moment))
    assert "singular" not in " ".join(found.notes)
    assert torch.equal(
        found.to_dense()[:, :4], Quantization(3, 4).decompose(weight[:, :4]).to_dense()
    )
    alive = method.decompose(weight[:, 4:], Full(moment[4:, 4:]))
    assert torch.equal(found.to_dense()[:, 4:], alive.to_dense())


def test_rows_count_for_nothing_within_a_row():
    weight, moment = random(5, 16), correlated(16, 100)
    plain = GPTQ(3, 8).decompose(weight, Full(moment))
    weighted = GPTQ(3, 8).decompose(weight, Full(moment, rows=random(5, seed=3).square()))
    assert torch.equal(plain.to_dense(), weighted.to_dense())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_of_any_dtype(dtype):
    weight, norm = random(6, 20, dtype=dtype), Full(correlated(20, 60), damping=0.01)
    found = GPTQ(4, 8).decompose(weight, norm).to_dense()
    wanted = GPTQ(4, 8).decompose(weight.double(), norm).to_dense()
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"bits": 9}, "bits=9 does not exist"),
        ({"bits": 4, "scale": "max"}, "scale='max' must be one of"),
        ({"bits": 4, "order": "random"}, r"order='random' must be one of \('natural', 'activ"),
        ({"bits": 4, "groups": "none"}, r"groups='none' must be one of \('static', 'dynamic'\)"),
        ({"bits": 4, "sweeps": -1}, "sweeps=-1 must be at least 0 and an integer"),
    ],
)
def test_bad_options(fields, text):
    with pytest.raises(ValueError, match=text):
        GPTQ(**fields)


def test_statistics_of_another_layer_are_refused():
    with pytest.raises(ValueError, match="moment of length 5 do not fit a weight of shape"):
        GPTQ(4).decompose(random(3, 6), Full(torch.eye(5)))


@pytest.mark.parametrize(
    "norm", [IDENTITY, Diagonal(torch.arange(12) + 0.1), Full(random(12, 30) @ random(12, 30).T)]
)
@settings(max_examples=20)
@given(limit=st.integers(0, 300), symmetric=st.booleans())
def test_plain_quantizations_fit_and_smaller_groups_would_not(norm, limit, symmetric):
    weight, method = random(10, 12), GPTQ(4, symmetric=symmetric)

    def nbytes(method):
        return method.rounding().nbytes((10, 12))

    forms = method.within(weight, norm, limit)
    all_bits = [
        bits
        for bits in range(1, 9)
        if nbytes(replace(method, bits=bits, group_size="channel")) <= limit
    ]
    assert [form.layout.bits for form in forms] == all_bits[-2:]
    for form in forms:
        bits, size = form.layout.bits, form.layout.group_size
        assert form.nbytes == nbytes(replace(method, bits=bits, group_size=size))
        assert form.nbytes <= limit
        if size > 1:
            smaller = replace(method, bits=bits, group_size=size - 1)
            assert nbytes(smaller) > limit
