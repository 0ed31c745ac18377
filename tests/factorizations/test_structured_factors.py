"""Block-diagonal factors, grids of low-rank blocks and channel products run as their matrix."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tensors import random_by_sum as random
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lowrank.decomposers import HalfPrecision, TruncatedSVD
from lowrank.factorizations import (
    BlockDiagonal,
    ChannelProduct,
    Dense,
    DirectSum,
    Factorization,
    PermutedProduct,
    Product,
    rebuild,
)
from lowrank.factorizations.operations import Convolve, Lookup, Multiply, Operation
from lowrank.factorizations.permuted_product import regrouping


def dense(out: int, inner: int) -> Dense:
    return Dense(random(out, inner))


def low_rank_blocks(ranks: list[list[int]], heights: list[int], widths: list[int]) -> Factorization:
    table = torch.tensor(ranks)
    down, across = table.sum(dim=1).tolist(), table.sum(dim=0).tolist()
    left = DirectSum(*(dense(height, n) for height, n in zip(heights, down, strict=True)))
    right = DirectSum(*(dense(n, width) for width, n in zip(widths, across, strict=True)))
    return PermutedProduct(left, right, (len(heights), len(widths)), table)


FORMS = {
    "blocks": BlockDiagonal(3, dense(12, 12)),
    "blocks of factors": BlockDiagonal(3, Product(dense(12, 2), dense(2, 12))),
    "tall and wide": DirectSum(dense(4, 12), Product(dense(2, 1), dense(1, 18)), dense(6, 6)),
    "uniform grid": PermutedProduct(
        BlockDiagonal(2, dense(12, 6)),
        BlockDiagonal(3, dense(12, 12)),
        (2, 3),
        torch.tensor([[2]]),
    ),
    "grid": low_rank_blocks([[2, 0, 1], [0, 1, 3]], [4, 8], [6, 12, 18]),
    "channels": ChannelProduct(dense(12, 27), dense(3, 4), 9),
    "depthwise": Product(
        dense(12, 3), ChannelProduct(BlockDiagonal(3, dense(3, 9)), dense(3, 4), 9)
    ),
}

OPERATIONS: dict[str, tuple[Operation, Tensor]] = {
    "multiply": (Multiply(), random(2, 5, 36)),
    "multiply a vector": (Multiply(), random(36)),
    "look up": (Lookup(), torch.tensor([[0, 11], [3, 3]])),
    "3x3": (Convolve((3, 3), (2, 1), (1, 1)), random(2, 4, 7, 6)),
    "3x3, 2 groups": (Convolve((3, 3), groups=2), random(2, 8, 7, 6)),
    "3x3, channels last": (Convolve((3, 3), view="channels_last"), random(2, 4, 7, 6)),
    "3x3, spatial": (Convolve((3, 3), padding=(0, 1), view="spatial"), random(2, 12, 7, 6)),
    "3x2, 2 groups": (Convolve((3, 2), groups=2), random(1, 12, 7, 6)),
    "1x1": (Convolve((1, 1)), random(2, 36, 3, 2)),
    "1x1, shared": (Convolve((1, 1), shared=2), random(2, 72, 3, 2)),
    "6x6": (Convolve((6, 6)), random(1, 1, 7, 6)),
}

every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@every_form
@pytest.mark.parametrize(("operation", "x"), OPERATIONS.values(), ids=OPERATIONS.keys())
def test_it_runs_as_its_dense_matrix(form, operation, x):
    assert form.shape == tuple(form.to_dense().shape) == (12, 36)
    rows = 4 if operation == OPERATIONS["3x3, spatial"][0] else 12
    bias = random(36 if isinstance(operation, Lookup) else rows)
    wanted = operation.apply(x, form.to_dense(), bias)
    torch.testing.assert_close(form(x, operation, bias), wanted)


@every_form
@pytest.mark.parametrize(("operation", "x"), OPERATIONS.values(), ids=OPERATIONS.keys())
def test_it_says_where_it_is_multiplied_out(form, operation, x, monkeypatch):
    made = []
    for cls in (BlockDiagonal, DirectSum, ChannelProduct, PermutedProduct):
        to_dense = cls.to_dense
        monkeypatch.setattr(
            cls, "to_dense", lambda self, own=to_dense: (made.append(self), own(self))[1]
        )
    form(x, operation)
    assert form.multiplied_out(operation) is bool(made)


@every_form
def test_it_comes_back_from_what_is_stored(form):
    back = rebuild(json.loads(json.dumps(form.config())))
    back.load_state_dict(form.state_dict())
    assert torch.equal(back.to_dense(), form.to_dense())
    assert back.params == form.params and back.describe() == form.describe()


@every_form
def test_every_dense_leaf_can_be_replaced(form):
    halved = form.map_dense(lambda leaf: HalfPrecision().decompose(leaf.weight))
    assert halved.params == form.params
    torch.testing.assert_close(halved.to_dense(), form.to_dense(), rtol=0.02, atol=0.02)


@every_form
def test_the_parameters_are_those_of_its_tensors(form):
    assert form.params == sum(parameter.numel() for parameter in form.parameters())


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=4))
@settings(max_examples=40)
def test_the_permutation_brings_the_segments_of_a_row_together(ranks):
    table = torch.tensor(ranks)
    by_column = [(j, k) for k in range(3) for j in range(len(ranks)) for _ in range(ranks[j][k])]
    by_row = [(j, k) for j in range(len(ranks)) for k in range(3) for _ in range(ranks[j][k])]
    index = regrouping(table)
    assert [by_column[place] for place in index.tolist()] == by_row
    assert sorted(index.tolist()) == list(range(len(by_row)))


def test_a_grid_of_blocks_is_a_block_matrix():
    form = low_rank_blocks([[2, 1], [1, 3]], [4, 8], [12, 24])
    whole = form.to_dense()
    left, right = form.left.blocks, form.right.blocks
    first = left[0].weight[:, :2] @ right[0].weight[:2]
    second = left[0].weight[:, 2:] @ right[1].weight[:1]
    torch.testing.assert_close(whole[:4], torch.cat([first, second], dim=1))
    last = left[1].weight[:, 1:] @ right[1].weight[1:]
    torch.testing.assert_close(whole[4:, 12:], last)


@pytest.mark.parametrize(
    ("name", "operation", "places"),
    [("blocks", "multiply a vector", 1), ("grid", "multiply a vector", 1)]
    + [("uniform grid", "1x1", 12), ("grid", "1x1", 12)]
    + [("blocks", "3x3, one", 1)],
)
def test_only_the_blocks_are_multiplied(name, operation, places):
    operations = OPERATIONS | {"3x3, one": (Convolve((2, 2)), random(1, 9, 2, 2))}
    with FlopCounterMode(display=False) as counter:
        FORMS[name](operations[operation][1], operations[operation][0])
    assert counter.get_total_flops() == 2 * FORMS[name].params * places


@pytest.mark.parametrize(("name", "macs"), [("channels", 9 * 3 * 4 + 12 * 27), ("depthwise", 171)])
def test_a_kernel_runs_on_the_few_channels_that_it_is_given(name, macs):
    """One position of the output of a 3 × 3 kernel, at which the mixing runs on 9 of the input."""
    with FlopCounterMode(display=False) as counter:
        FORMS[name](random(1, 4, 3, 3), Convolve((3, 3)))
    assert counter.get_total_flops() == 2 * macs


def test_factors_of_blocks_can_be_compressed_further():
    form = FORMS["blocks"].map_dense(lambda leaf: TruncatedSVD(rank=2).decompose(leaf.weight))
    x = random(5, 36)
    torch.testing.assert_close(form(x), x @ form.to_dense().T)


def test_a_write_into_the_ranks_counts_at_once():
    form, other = low_rank_blocks([[2, 1], [1, 2]], [4, 8], [6, 12]), [[1, 2], [2, 1]]
    before = form.to_dense()
    form.get_buffer("ranks").copy_(torch.tensor(other))
    again = rebuild(form.config())
    again.load_state_dict(form.state_dict())
    assert not torch.equal(form.to_dense(), before)
    assert torch.equal(form.to_dense(), again.to_dense())
    form.get_buffer("ranks").fill_(3)
    with pytest.raises(ValueError, match="ranks of sum 12 do not fit factors of 6"):
        form(random(2, 18))


class TestBadInput:
    def test_rows_that_are_not_those_of_the_blocks(self):
        with pytest.raises(ValueError, match="12 rows are not those of 5 blocks of one shape"):
            BlockDiagonal(5, dense(12, 4))

    def test_no_block(self):
        with pytest.raises(ValueError, match="at least 1 block, got none"):
            DirectSum()

    def test_ranks_that_are_no_grid(self):
        with pytest.raises(ValueError, match=r"shape \(2, 1\) must be those of a grid \(2, 3\)"):
            PermutedProduct(dense(4, 6), dense(6, 4), (2, 3), torch.ones(2, 1))

    def test_ranks_that_do_not_fit_the_factors(self):
        with pytest.raises(ValueError, match=r"\(4, 6\) and \(6, 4\) do not fit ranks of sum 12"):
            PermutedProduct(dense(4, 6), dense(6, 4), (2, 3), torch.tensor([[2]]))

    def test_a_core_without_the_positions(self):
        with pytest.raises(ValueError, match="no 9 columns for each of the 4 channels"):
            ChannelProduct(dense(3, 27), dense(4, 5), 9)
