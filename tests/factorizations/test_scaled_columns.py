import json

import pytest
import torch
from made_tensors import single as random
from made_tensors import tensor_bytes
from safetensors.torch import load, save

from lowrank.factorizations import Dense, Layout, Product, Quantized, ScaledColumns, rebuild


def quantized(rows=5, columns=7):
    layout = Layout((rows, columns), 4, 3)
    codes = (3 * random(rows, columns) + 8).round().clamp(0, 15)
    return Quantized(layout, codes, random(layout.count, seed=1).half())


def test_each_column_of_the_term_is_scaled():
    term, scale = quantized(), random(7, seed=2).half()
    form = ScaledColumns(term, scale)
    expected = term.to_dense() @ torch.diag(scale.float())
    assert torch.equal(form.to_dense(), expected)
    x = random(3, 7)
    torch.testing.assert_close(form(x), x @ expected.T)
    assert form.params == 35
    assert repr(form) == "Quantized 7→5, 4 bits, group 3, scaled columns"


def test_it_stores_the_term_and_a_scale_for_each_column():
    term, scale = quantized(), random(7).half()
    form = ScaledColumns(term, scale)
    stored = [tensor_bytes(f) for f in (term, form)]
    assert stored[1] == stored[0] + 2 * 7
    back = rebuild(json.loads(json.dumps(form.config())))
    back.load_state_dict(load(save(form.state_dict())))
    assert torch.equal(back.to_dense(), form.to_dense())


def test_a_change_of_dtype_leaves_the_scales_as_they_are():
    form = ScaledColumns(quantized(), random(7).half())
    expected = form.to_dense()
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        assert form.to(dtype).to_dense().dtype == dtype
        assert form.scale.dtype == torch.float16
    assert torch.equal(form.to_dense(), expected)


def test_a_dense_term_is_trained_and_can_be_replaced():
    form = ScaledColumns(Dense(random(5, 7)), random(7, seed=1), notes=("of the first",))
    (gradient,) = torch.autograd.grad(form.to_dense().sum(), form.parameters())
    assert torch.equal(gradient, form.scale.expand(5, 7))
    mapped = form.map_dense(lambda leaf: Product(Dense(leaf.weight), Dense(torch.eye(7))))
    torch.testing.assert_close(mapped.to_dense(), form.to_dense())
    assert mapped.notes == ("of the first",)


def test_scales_of_another_number_of_columns_are_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\) do not fit .* needs \(7,\)"):
        ScaledColumns(quantized(), torch.ones(5))


def test_what_is_kept_under_autocast_is_in_full_precision():
    """The product would be of bfloat16, and would be used after autocast, too."""
    term = Product(Dense(random(5, 2)), Dense(random(2, 7, seed=1)))
    form = ScaledColumns(term, random(7, seed=2)).requires_grad_(False)
    x = random(3, 7)
    expected = x @ form.to_dense().T
    with torch.autocast("cpu", torch.bfloat16):
        assert form(x).dtype == torch.bfloat16
    assert torch.equal(form(x), expected)
