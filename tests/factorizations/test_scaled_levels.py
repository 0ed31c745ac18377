import copy

import pytest
import torch
from made_tensors import tensor_bytes
from safetensors.torch import load, save

from lowrank.factorizations import Layout, ScaledLevels, rebuild

LAYOUT = Layout((6, 40), 3, 16)
GROUPS = torch.arange(40) // 16


def made(levels=None, minimum=None, coded=False, dtype=torch.float32):
    """A matrix, and its codes and scales (6, 3)."""
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 8, (6, 40), generator=draw)
    if coded:
        inner = Layout((1, 18), 8, 8)
        numbers = torch.randint(0, 256, (1, 18), generator=draw), torch.rand(3, generator=draw)
        table = torch.rand(256, generator=draw)
        scale = ScaledLevels(inner, *numbers, levels=table, minimum=torch.tensor([0.3]))
        values = scale.to_dense().view(6, 3)
    else:
        values = torch.randn(6, 3, generator=draw).half()
        scale = values.flatten()
    return codes, values, ScaledLevels(LAYOUT, codes, scale, levels, minimum, dtype)


TABLE = torch.randn(8, generator=torch.Generator().manual_seed(1))
LOW = torch.randn(18, generator=torch.Generator().manual_seed(2)).half()
CASES = {
    "codes": {},
    "a table": {"levels": TABLE},
    "minima": {"minimum": LOW},
    "one minimum": {"minimum": LOW[:1]},
    "coded scales": {"levels": TABLE, "coded": True},
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_its_levels_times_the_scale_plus_the_minimum_of_each_group(name):
    codes, scale, form = made(**CASES[name])
    levels = CASES[name].get("levels", torch.arange(8.0))
    low = CASES[name].get("minimum", torch.zeros(1)).float().expand(18).view(6, 3)
    expected = levels[codes] * scale.float()[:, GROUPS] + low[:, GROUPS]
    assert torch.equal(form.to_dense(), expected)


@pytest.mark.parametrize("name", CASES)
def test_it_is_saved_by_its_codes_and_numbers_and_comes_back(name):
    *_, form = made(**CASES[name])
    numbers = {"codes": 36, "a table": 32, "minima": 36, "one minimum": 2, "coded scales": 32}
    if name == "coded scales":  # 18 codes, three scales, a table and a minimum.
        assert tensor_bytes(form) == form.nbytes == 90 + 32 + 18 + 12 + 1024 + 4
    else:
        extra = numbers[name] if name != "codes" else 0
        assert tensor_bytes(form) == form.nbytes == 90 + 36 + extra
    fresh = rebuild(form.config())
    fresh.load_state_dict(load(save(form.state_dict())))
    assert torch.equal(fresh.to_dense(), form.to_dense())
    assert fresh.config() == form.config() and repr(fresh) == repr(form)
    fresh.check_stored()


@pytest.mark.parametrize("name", CASES)
def test_a_change_of_dtype_leaves_what_is_stored_as_it_is(name):
    *_, form = made(**CASES[name])
    before, stored = form.to_dense(), {n: t.dtype for n, t in form.state_dict().items()}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        form.to(dtype)
        assert torch.equal(form.to_dense(), before.to(dtype))
        assert form.dtype == form.to_dense().dtype == form.derived().dtype == dtype
    assert {n: t.dtype for n, t in form.state_dict().items()} == stored
    twin = copy.deepcopy(form)
    twin.codes.zero_()
    assert torch.equal(form.to_dense(), before) and not torch.equal(twin.to_dense(), before)
    assert {tensor.device.type for tensor in twin.to("meta").buffers()} == {"meta"}


def test_nothing_of_it_is_trained_and_it_prints_readably():
    *_, form = made(TABLE, LOW, coded=True)
    assert not list(form.parameters()) and form.params == 240
    said = "ScaledLevels 40→6, 3 bits, group 16, of a table, a minimum, coded scales"
    assert repr(form) == said
    assert form.map_dense(lambda dense: dense) is form


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"codes": torch.zeros(5, 40)}, r"codes of shape \(5, 40\) must be of \(6, 40\)"),
        ({"codes": torch.full((6, 40), 8)}, r"must lie in 0\.\.7"),
        ({"scale": torch.ones(17)}, "scale of shape"),
        ({"scale": torch.full((18,), torch.nan)}, "scale: 18 of 18 numbers are NaN"),
        ({"levels": torch.ones(7)}, "levels of shape"),
        ({"levels": torch.arange(8)}, "levels must be floating point"),
        ({"minimum": torch.ones(2)}, r"minimum of shape \(2,\) must be of \(18,\) or \(1,\)"),
        ({"minimum": torch.tensor([torch.inf])}, "minimum: 1 of 1 numbers are NaN or infinite"),
        ({"scale": made()[2]}, r"the matrix of scales of shape \(6, 40\) must be of \(1, 18\)"),
    ],
)
def test_what_does_not_fit_is_refused(change, text):
    parts = {"codes": torch.zeros(6, 40, dtype=torch.uint8), "scale": torch.ones(18)}
    with pytest.raises(ValueError, match=text):
        ScaledLevels(LAYOUT, **(parts | change))


def test_stored_numbers_that_are_none_are_refused():
    *_, form = made(TABLE)
    form.levels[0] = torch.nan
    with pytest.raises(ValueError, match="'levels' are NaN or infinite"):
        form.check_stored()
