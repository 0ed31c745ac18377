"""Huffman codes: optimal, decodable, and nothing else is taken for one."""

import heapq
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lowrank.factorizations import prefix_code

COUNTS = st.lists(st.integers(0, 2000), min_size=1, max_size=70).filter(any)


def bits_by_merging(counts):
    """The bits of Huffman's own algorithm: the two rarest become one, again and again."""
    heap = [count for count in counts if count]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        total += both
        heapq.heappush(heap, both)
    return total or sum(counts)  # One symbol alone has one bit.


def bits_of(counts, lengths):
    return sum(count * length for count, length in zip(counts, lengths, strict=True))


@given(COUNTS)
def test_no_code_of_whole_bits_is_shorter(counts):
    lengths = prefix_code.word_lengths(counts)
    assert [length > 0 for length in lengths] == [count > 0 for count in counts]
    # Its words are at most 14 bits long for so few symbols of such counts.
    assert bits_of(counts, lengths) == bits_by_merging(counts)


@given(COUNTS)
def test_it_is_within_one_bit_of_the_entropy(counts):
    total, bits = sum(counts), bits_of(counts, prefix_code.word_lengths(counts))
    entropy = -sum(c * math.log2(c / total) for c in counts if c)
    assert entropy - 1e-6 <= bits < entropy + total + 1e-6


def test_words_of_very_rare_symbols_are_limited_at_the_least_cost():
    """Fibonacci numbers, whose Huffman code has a word of 24 bits."""
    counts = [1, 1]
    while len(counts) < 25:
        counts.append(counts[-1] + counts[-2])
    lengths = prefix_code.word_lengths(counts)
    assert max(lengths) == prefix_code.LONGEST
    assert sum(2.0**-length for length in lengths) == 1
    least = bits_by_merging(counts)
    assert least < bits_of(counts, lengths) < 1.001 * least


@given(counts=COUNTS, seed=st.integers(0, 100))
def test_every_symbol_comes_back(counts, seed):
    symbols = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    order = torch.randperm(len(symbols), generator=torch.Generator().manual_seed(seed))
    lengths = prefix_code.word_lengths(counts)
    stream = prefix_code.encode(symbols[order], lengths)
    assert stream.dtype == torch.uint8
    assert len(stream) == math.ceil(bits_of(counts, lengths) / 8)
    assert torch.equal(prefix_code.decode(stream, lengths, len(symbols)), symbols[order])


def test_streams_longer_than_a_block_come_back(monkeypatch):
    monkeypatch.setattr(prefix_code, "BLOCK", 7)
    symbols = torch.arange(500) ** 2 % 37
    lengths = prefix_code.word_lengths(torch.bincount(symbols).tolist())
    stream = prefix_code.encode(symbols, lengths)
    assert torch.equal(prefix_code.decode(stream, lengths, 500), symbols)


def test_one_stream_is_that_of_the_definition():
    # Lengths 1, 2, 3, 3: the words 0, 10, 110, 111.
    lengths = prefix_code.word_lengths([5, 3, 1, 1])
    assert lengths == [1, 2, 3, 3]
    stream = prefix_code.encode(torch.tensor([2, 0, 3, 1]), lengths)
    assert stream.tolist() == [0b11001111, 0b00000000]
    assert prefix_code.encode(torch.tensor([], dtype=torch.int64), [0, 0]).tolist() == []
    assert prefix_code.decode(torch.zeros(0, dtype=torch.uint8), [0, 0], 0).tolist() == []


@pytest.mark.parametrize(
    ("lengths", "data", "count"),
    [
        ([1, 1], [0, 0], 3),  # a byte too many
        ([1, 1], [0], 9),  # symbols too many
        ([1, 1], [0b00000001], 7),  # what follows the last word
        ([1, 0], [0b01000000], 2),  # no word begins so
        ([1, 0], [0b01000000] + [0] * 20, 161),  # nor in the middle of a stream
        ([1, 2, 3, 3], [0b11111111], 3),  # ends within a word
    ],
)
def test_what_is_no_stream_is_refused(lengths, data, count):
    with pytest.raises(ValueError, match="stream of Huffman codes cannot be decoded"):
        prefix_code.decode(torch.tensor(data, dtype=torch.uint8), lengths, count)


@pytest.mark.parametrize("lengths", [[1, 1, 1], [2, 2], [1, 2, 0], [16, 16]])
def test_lengths_of_no_code_are_refused(lengths):
    with pytest.raises(ValueError, match="no Huffman code has words of these lengths"):
        prefix_code.decode(torch.zeros(1, dtype=torch.uint8), lengths, 1)
