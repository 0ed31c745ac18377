import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank.factorizations.packing import Layout, pack, packed_bytes, unpack


@given(st.integers(1, 8), st.integers(0, 100), st.integers(0, 2**32))
def test_codes_come_back_from_exactly_as_many_bytes_as_they_need(bits, count, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (count,), generator=generator)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_bytes(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack(packed, bits, count).long(), codes)


@given(st.integers(1, 8), st.lists(st.integers(0, 255), max_size=40))
def test_the_bits_stand_one_after_the_other_lowest_first(bits, values):
    codes = [value % 2**bits for value in values]
    number = sum(code << (bits * place) for place, code in enumerate(codes))
    expected = number.to_bytes(packed_bytes(len(codes), bits), "little")
    assert bytes(pack(torch.tensor(codes, dtype=torch.uint8), bits).tolist()) == expected


group_sizes = st.sampled_from(["channel", "tensor"]) | st.integers(1, 12)


@given(st.integers(1, 6), st.integers(1, 10), group_sizes)
def test_groups_are_runs_of_inputs_and_join_again(rows, columns, group_size):
    layout = Layout((rows, columns), 4, group_size)
    matrix = torch.arange(1, rows * columns + 1).view(rows, columns)
    groups = layout.split(matrix)
    assert groups.shape == (layout.count, layout.width)
    assert torch.equal(layout.join(groups), matrix)
    assert torch.equal(groups > 0, layout.filled(matrix.device))
    if group_size == "tensor":
        expected = [matrix.flatten()]
    else:
        length = columns if group_size == "channel" else group_size
        expected = [part for row in matrix for part in row.split(length)]
    found = [group[group > 0] for group in groups]
    assert all(map(torch.equal, found, expected)) and len(found) == len(expected)


@pytest.mark.parametrize("bits", [0, 9, 2.0, True, "4"])
def test_bits_that_do_not_exist_are_refused(bits):
    with pytest.raises(ValueError, match=r"bits=.* does not exist: give an integer in 1\.\.8"):
        Layout((2, 2), bits, "channel")


@pytest.mark.parametrize("group_size", [0, -1, 2.0, True, "row", None])
def test_group_sizes_that_do_not_exist_are_refused(group_size):
    with pytest.raises(ValueError, match="group_size=.* does not exist: give a number"):
        Layout((2, 2), 4, group_size)
