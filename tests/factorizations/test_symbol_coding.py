import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank.factorizations.symbol_coding import CODINGS, coding_named


def drawn(count, bits, skew, seed):
    """Symbols, the first ones more frequent the larger the skew."""
    share = torch.rand(count, generator=torch.Generator().manual_seed(seed)) ** skew
    return (share * 2**bits).long().clamp_max(2**bits - 1)


def entropy(symbols):
    share = torch.bincount(symbols).double() / len(symbols)
    return -float((share[share > 0] * share[share > 0].log2()).sum())


@given(
    name=st.sampled_from(sorted(CODINGS)),
    count=st.sampled_from([0, 1, 2, 300, 2049]),
    bits=st.integers(1, 8),
    skew=st.sampled_from([0.0, 1.0, 9.0]),
    seed=st.integers(0, 100),
)
def test_every_symbol_comes_back(name, count, bits, skew, seed):
    coding, symbols = coding_named(name), drawn(count, bits, skew, seed)
    stream, table = coding.encode(symbols, bits)
    assert stream.dtype == table.dtype == torch.uint8
    assert len(table) == coding.table_bytes(bits)
    assert torch.equal(coding.decode(stream, table, bits, count).long(), symbols)


@given(bits=st.integers(2, 8), skew=st.sampled_from([1.0, 3.0, 9.0]), seed=st.integers(0, 20))
def test_what_each_takes_is_bounded_by_the_entropy(bits, skew, seed):
    count, symbols = 4000, drawn(4000, bits, skew, seed)
    least = count * entropy(symbols)
    taken = {name: 8 * len(coding.encode(symbols, bits)[0]) for name, coding in CODINGS.items()}
    assert taken["fixed"] == 8 * math.ceil(count * bits / 8)
    assert least <= taken["huffman"] + 1e-6 and taken["huffman"] <= taken["fixed"]
    # 1 % more, and two states.
    assert least <= taken["ans"] + 16 and taken["ans"] <= 1.01 * least + 96


@pytest.mark.parametrize("name", ["huffman", "ans", "fixed"])
def test_symbols_of_more_bits_are_refused(name):
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.7, and these lie in 0\.\.8"):
        coding_named(name).encode(torch.arange(9), 3)


def test_a_stream_of_another_count_is_refused():
    stream, table = coding_named("fixed").encode(torch.arange(8), 3)
    with pytest.raises(ValueError, match="20 symbols of 3 bits are 8 bytes, not 3"):
        coding_named("fixed").decode(stream, table, 3, 20)


def test_a_coding_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"coding='zip' must be one of \('fixed', 'huffman'"):
        coding_named("zip")
