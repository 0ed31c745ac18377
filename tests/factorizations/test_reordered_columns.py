import json

import pytest
import torch
from made_tensors import single as random
from made_tensors import tensor_bytes
from safetensors.torch import load, save

from lowrank.factorizations import Dense, Layout, Product, Quantized, ReorderedColumns, rebuild

ORDER = torch.tensor([3, 0, 6, 1, 5, 2, 4])


def quantized(rows=5, columns=7):
    layout = Layout((rows, columns), 4, 3)
    codes = (3 * random(rows, columns) + 8).round().clamp(0, 15)
    return Quantized(layout, codes, random(layout.count, seed=1).half())


def test_each_column_of_the_term_is_put_in_its_place():
    term = quantized()
    form = ReorderedColumns(term, ORDER)
    for place, column in enumerate(ORDER.tolist()):
        assert torch.equal(form.to_dense()[:, column], term.to_dense()[:, place])
    x = random(3, 7)
    torch.testing.assert_close(form(x), x[:, ORDER] @ term.to_dense().T)
    assert form.params == 35
    assert repr(form) == "Quantized 7→5, 4 bits, group 3, reordered columns"


@pytest.mark.parametrize(("columns", "width"), [(7, 2), (2**16 + 1, 4)])
def test_it_stores_the_term_and_the_place_of_each_column(columns, width):
    term = Dense(random(1, columns))
    form = ReorderedColumns(term, torch.arange(columns).flip(0))
    stored = [tensor_bytes(f) for f in (term, form)]
    assert stored[1] == stored[0] + width * columns
    back = rebuild(json.loads(json.dumps(form.config())))
    back.load_state_dict(load(save(form.state_dict())))
    back.check_stored()
    assert torch.equal(back.to_dense(), form.to_dense())


def test_a_change_of_dtype_leaves_the_order_as_it_is():
    form = ReorderedColumns(quantized(), ORDER)
    expected = form.to_dense()
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        assert form.to(dtype).to_dense().dtype == dtype
    assert torch.equal(form.to_dense(), expected)


def test_a_dense_term_is_trained_and_can_be_replaced():
    form = ReorderedColumns(Dense(random(5, 7)), ORDER, notes=("of the first",))
    weights = random(5, 7, seed=1)
    (gradient,) = torch.autograd.grad((form.to_dense() * weights).sum(), form.parameters())
    assert torch.equal(gradient, weights[:, ORDER])
    mapped = form.map_dense(lambda leaf: Product(Dense(leaf.weight), Dense(torch.eye(7))))
    torch.testing.assert_close(mapped.to_dense(), form.to_dense())
    assert mapped.notes == ("of the first",)


@pytest.mark.parametrize(
    "order", [torch.arange(6), torch.zeros(7).long(), torch.arange(1, 8), torch.arange(7.0)]
)
def test_what_is_no_order_of_the_columns_is_refused(order):
    with pytest.raises(ValueError, match="no permutation of 7 columns"):
        ReorderedColumns(quantized(), order)
    form = ReorderedColumns(quantized(), ORDER)
    if order.shape == (7,) and not order.is_floating_point():
        form.order = order.to(form.order.dtype)
        with pytest.raises(ValueError, match="no permutation"):
            form.check_stored()
