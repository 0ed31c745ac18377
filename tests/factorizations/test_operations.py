"""Running the factors one after the other equals running their product at once."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sum as random
from torch import Tensor, nn

from lowrank.factorizations import Dense, Product, Scaled, Sum
from lowrank.factorizations.operations import (
    KERNEL_VIEWS,
    Convolve,
    Lookup,
    Multiply,
    MultiplyAlong,
    MultiplyBlocks,
    MultiplyTransposed,
    Operation,
)


def low_rank(out: int, inner: int, *ranks: int) -> Product:
    sizes = [out, *ranks, inner]
    return Product(*(Dense(random(a, b)) for a, b in zip(sizes, sizes[1:], strict=False)))


def nested(out: int, inner: int) -> Product:
    """Products inside a product, on either side and in the middle."""
    return Product(low_rank(out, 3, 2), low_rank(3, 5, 4), low_rank(5, inner, 3))


def runs_like_its_dense_matrix(form: nn.Module, x: Tensor, operation: Operation) -> None:
    torch.testing.assert_close(form(x, operation), operation.apply(x, form.to_dense()))


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, Tensor]:
    groups = draw(st.integers(1, 3))
    kernel, dilation = draw(pairs), draw(pairs)
    layer = nn.Conv2d(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride=draw(pairs),
        padding=draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        dilation=dilation,
        groups=groups,
        bias=False,
        dtype=torch.float64,
    )
    # The smallest input that the dilated kernel fits, and up to 4 more.
    size = [
        (k - 1) * d + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilation, strict=True)
    ]
    return layer, random(draw(st.integers(1, 2)), layer.in_channels, *size)


CLASSES = {
    (1, False): nn.Conv1d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}


@st.composite
def other_convolutions(draw: st.DrawFn) -> tuple[Any, Tensor]:
    """Along one or three axes, or transposed."""
    axes, transposed = draw(st.sampled_from(list(CLASSES)))
    groups = draw(st.integers(1, 2))

    def numbers(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(least, most)) for _ in range(axes))

    kernel, stride, dilation = numbers(1, 3), numbers(1, 2), numbers(1, 2)
    padding = tuple(min(n, k - 1) for n, k in zip(numbers(0, 1), kernel, strict=True))
    own: dict[str, Any] = {}
    if transposed:
        reach = [max(pair) - 1 for pair in zip(stride, dilation, strict=True)]
        own["output_padding"] = tuple(map(min, zip(numbers(0, 1), reach, strict=True)))
    layer = CLASSES[axes, transposed](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel,
        **{"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
        **{"bias": False, "dtype": torch.float64, **own},
    )
    size = [
        (k - 1) * d + 1 + draw(st.integers(0, 2)) for k, d in zip(kernel, dilation, strict=True)
    ]
    return layer, random(draw(st.integers(1, 2)), layer.in_channels, *size)


def operation_of(layer: Any, view: str) -> Convolve:
    transposed = type(layer) in [CLASSES[axes, True] for axes in (1, 2, 3)]
    return Convolve(
        *(layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, view),
        output_padding=layer.output_padding if transposed else None,
    )


@pytest.mark.parametrize("view", KERNEL_VIEWS)
class TestConvolve:
    @given(convolutions())
    @settings(max_examples=60)
    def test_the_matrix_of_a_kernel_convolves_as_the_layer(self, view, case):
        layer, x = case
        operation = operation_of(layer, view)
        matrix = operation.matrix(layer.weight)
        assert torch.equal(operation.kernel(matrix), layer.weight)
        assert torch.equal(operation.apply(x, matrix), layer(x))

    @given(case=convolutions(), ranks=st.lists(st.integers(1, 4), min_size=1, max_size=3))
    @settings(max_examples=60)
    def test_a_product_of_any_length_equals_its_dense_convolution(self, view, case, ranks):
        layer, x = case
        operation = operation_of(layer, view)
        out, inner = operation.matrix(layer.weight).shape
        form = low_rank(out, inner, *ranks)
        kernel = operation.kernel(form.to_dense())
        wanted = F.conv2d(
            x, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups
        )
        torch.testing.assert_close(form(x, operation), wanted)

    @given(convolutions())
    @settings(max_examples=40)
    def test_products_in_products_and_sums_equal_their_dense_convolution(self, view, case):
        layer, x = case
        operation = operation_of(layer, view)
        out, inner = operation.matrix(layer.weight).shape
        form = Sum(nested(out, inner), Scaled(low_rank(out, inner, 2), 0.5))
        runs_like_its_dense_matrix(form, x, operation)

    @given(case=other_convolutions(), ranks=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    @settings(max_examples=80)
    def test_all_laws_along_any_axes_and_transposed(self, view, case, ranks):
        layer, x = case
        operation = operation_of(layer, view)
        matrix = operation.matrix(layer.weight)
        assert torch.equal(operation.kernel(matrix), layer.weight)
        assert torch.equal(operation.apply(x, matrix), layer(x))
        assert torch.equal(operation.bind(matrix)(x), layer(x))
        form = Sum(low_rank(*matrix.shape, *ranks), Scaled(nested(*matrix.shape), 0.5))
        with torch.no_grad():
            layer.weight.copy_(operation.kernel(form.to_dense()))
        torch.testing.assert_close(form(x, operation), layer(x))
        patches = replace(operation, view="channel").patches(x)
        groups = patches.unflatten(1, (layer.groups, -1))
        rows = replace(operation, view="channel").matrix(layer.weight)
        y = torch.einsum("ngpi,goi->ngop", groups, rows.unflatten(0, (layer.groups, -1)))
        torch.testing.assert_close(y.flatten(1, 2), layer(x).flatten(2))

    def test_a_rank_r_product_runs_as_two_small_convolutions(self, view):
        """r channels in between, and no multiplication of the factors: the MACs tell."""
        from torch.utils.flop_counter import FlopCounterMode

        out, channels, rank, k, size = 8, 6, 3, 3, 10
        operation = Convolve((k, k), padding=(1, 1), view=view)
        rows, columns = operation.matrix(random(out, channels, k, k)).shape
        with FlopCounterMode(display=False) as counter:
            low_rank(rows, columns, rank)(random(1, channels, size, size), operation)
        assert counter.get_total_flops() == 2 * rank * (rows + columns) * size * size


def test_the_spatial_view_splits_a_kernel_into_a_column_and_a_row():
    """A separable kernel has rank 1 in the spatial view, full rank in the channel view."""
    column, row = random(1, 1, 3, 1), random(1, 1, 1, 3)
    kernel = (column * row).expand(1, 1, 3, 3) * torch.ones(1, 1, 3, 3)
    assert torch.linalg.matrix_rank(Convolve((3, 3), view="spatial").matrix(kernel)) == 1


class TestMultiply:
    @given(st.lists(st.integers(1, 5), max_size=3), st.lists(st.integers(1, 5), min_size=1))
    @settings(max_examples=50)
    def test_any_product_on_any_leading_shape(self, leading, ranks):
        x = random(*leading, 6)
        runs_like_its_dense_matrix(low_rank(7, 6, *ranks[:4]), x, Multiply())

    def test_nested_products(self):
        runs_like_its_dense_matrix(nested(7, 6), random(4, 6), Multiply())

    def test_it_is_what_a_linear_layer_does(self):
        layer = nn.Linear(6, 7, bias=False, dtype=torch.float64)
        x = random(4, 6)
        assert torch.equal(Dense(layer.weight)(x), layer(x))

    def test_transposed(self):
        runs_like_its_dense_matrix(nested(7, 6), random(4, 7), MultiplyTransposed())
        matrix, x = random(7, 6), random(4, 7)
        assert torch.equal(MultiplyTransposed().apply(x, matrix), x @ matrix)


class TestLookup:
    @pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
    def test_products_and_sums_look_up_rows_of_their_dense_matrix(self, shape):
        index = torch.randint(9, shape, generator=torch.Generator().manual_seed(0))
        form = Sum(nested(9, 6), Scaled(low_rank(9, 6, 2), 0.5, dropout=0.3))
        form.eval()
        y = form(index, Lookup())
        assert y.shape == (*shape, 6)
        torch.testing.assert_close(y, form.to_dense()[index])

    def test_the_padding_row_of_a_dense_table_gets_no_gradient(self):
        table = Dense(random(5, 3))
        table(torch.tensor([0, 2]), Lookup(padding_idx=2)).sum().backward()
        assert table.weight.grad is not None
        assert table.weight.grad[0].abs().sum() > 0
        assert table.weight.grad[2].abs().sum() == 0


def scales_rows(operation: Operation, x: Tensor, matrix: Tensor) -> None:
    factors = random(matrix.shape[0])
    of_outputs = operation.row_factors(x, factors)
    assert of_outputs is not None
    y = operation.apply(x, matrix) * of_outputs
    torch.testing.assert_close(y, operation.apply(x, matrix * factors[:, None]))


class TestRowFactors:
    """Outputs times their factors are those of a matrix whose rows are multiplied."""

    @pytest.mark.parametrize(
        ("operation", "inner"),
        [
            (Multiply(), 6),
            (MultiplyBlocks(3), 18),
            (MultiplyBlocks(3, shared=True), 18),
            (MultiplyAlong(4), 24),
        ],
        ids=str,
    )
    def test_products_with_vectors(self, operation, inner):
        scales_rows(operation, random(5, 2, inner), random(9, 6))

    def test_lookups(self):
        scales_rows(Lookup(), torch.tensor([[0, 3], [8, 3]]), random(9, 6))

    def test_the_factor_of_the_padding_row_gets_no_gradient(self):
        factors = torch.ones(5, requires_grad=True)
        found = Lookup(padding_idx=2).row_factors(torch.tensor([0, 2]), factors)
        assert found is not None
        found.sum().backward()
        assert factors.grad is not None and factors.grad.tolist() == [1, 0, 0, 0, 0]

    @given(convolutions(), st.sampled_from(KERNEL_VIEWS))
    @settings(max_examples=40)
    def test_convolutions(self, case, view):
        layer, x = case
        operation = operation_of(layer, view)
        matrix = operation.matrix(layer.weight).detach()
        if view == "spatial" and layer.kernel_size[1] > 1:
            assert operation.row_factors(x, random(matrix.shape[0])) is None
        else:
            scales_rows(operation, x, matrix)

    @given(other_convolutions())
    @settings(max_examples=40)
    def test_other_convolutions(self, case):
        layer, x = case
        operation = operation_of(layer, "channel")
        scales_rows(operation, x, operation.matrix(layer.weight).detach())

    def test_shared_groups_have_each_the_factors(self):
        operation = Convolve((3,), shared=2)
        scales_rows(operation, random(2, 8, 5), random(6, 12))
        scales_rows(operation.order([0, 1])[-1][1], random(2, 8, 5), random(6, 4))

    def test_columns_are_no_rows(self):
        assert MultiplyTransposed().row_factors(random(4, 7), random(7)) is None
