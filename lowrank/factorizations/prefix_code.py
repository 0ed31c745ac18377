"""Canonical Huffman codes: symbols as words of whole bits, no word the beginning of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Bits of the longest word, so that 4 bits say the length of one, and a table of 2^15 entries reads
# all of them.
LONGEST = 15
# Bits of a stream that are looked up at once.
BLOCK = 2**20
NO_STREAM = "a stream of Huffman codes cannot be decoded: it is damaged, or not that of this matrix"


def word_lengths(counts: Sequence[int]) -> list[int]:
    """Bits of the word of each symbol, 0 for one that does not occur, none above `LONGEST`.

    Of all such codes the one of the smallest sum of count · length. One symbol alone has a word of
    1 bit.

    Args:
        counts: how often each symbol occurs, at most 2^`LONGEST` of them.

    Source: package-merge, Larmore & Hirschberg, Journal of the ACM 37(3), 1990; without a limit it
    is the code of Huffman, Proceedings of the IRE 40(9), 1952.
    """
    lengths = [0] * len(counts)
    single = sorted((count, [symbol]) for symbol, count in enumerate(counts) if count)
    if len(single) == 1:
        lengths[single[0][1][0]] = 1
        return lengths
    merged = single
    for _ in range(LONGEST - 1):
        pairs = zip(merged[::2], merged[1::2], strict=False)
        packages = [(a + b, left + right) for (a, left), (b, right) in pairs]
        merged = sorted([*single, *packages], key=lambda package: package[0])
    for _, symbols in merged[: max(2 * len(single) - 2, 0)]:
        for symbol in symbols:
            lengths[symbol] += 1
    return lengths


def encode(symbols: Tensor, lengths: Sequence[int]) -> Tensor:
    """Symbols (n,) as words, one after the other, the first bit the highest of a byte (uint8).

    Args:
        lengths: of the words, above 0 for every symbol that occurs.
    """
    words, sizes = canonical(lengths), np.asarray(lengths, dtype=np.int64)
    found = symbols.cpu().numpy().astype(np.int64)
    size = sizes[found]
    ends = size.cumsum()
    which = np.repeat(np.arange(len(found)), size)
    # How many bits of its word follow each bit.
    after = ends[which] - 1 - np.arange(len(which))
    bits = (words[found][which] >> after) & 1
    return torch.from_numpy(np.packbits(bits.astype(np.uint8))).to(symbols.device)


def decode(stream: Tensor, lengths: Sequence[int], count: int) -> Tensor:
    """The `count` symbols of `encode`, (count,), int64, on the device of the stream.

    Word after word, as such codes must be: about a second for 3 million symbols.

    Raises:
        ValueError: there are no words of these lengths, or the stream is not one of that many.
    """
    symbol, size = _lookup(lengths)
    data = np.concatenate([stream.cpu().numpy(), np.zeros(3, np.uint8)]).astype(np.int64)
    total, found, at = 8 * len(stream), np.empty(count, dtype=np.int64), 0
    done = 0
    while done < count:
        first = at
        if first >= total:
            raise ValueError(NO_STREAM)
        position = np.arange(first, min(first + BLOCK, total))
        byte = position >> 3
        three = data[byte] << 16 | data[byte + 1] << 8 | data[byte + 2]
        window = three >> (24 - LONGEST - (position & 7)) & (2**LONGEST - 1)
        steps, places = size[window].tolist(), []
        end = first + len(steps)
        while at < end and done + len(places) < count:
            places.append(at - first)
            at += steps[at - first] or total + 8  # No word: beyond the end, which is refused.
        found[done : done + len(places)] = symbol[window[places]]
        done += len(places)
    spare = total - at
    if not 0 <= spare < 8 or (spare and int(stream[-1]) & (2**spare - 1)):
        raise ValueError(NO_STREAM)
    return torch.from_numpy(found).to(stream.device)


def canonical(lengths: Sequence[int]) -> np.ndarray:
    """The words as integers: those of one length follow each other, shorter ones come first.

    Raises:
        ValueError: there are no such words.

    Source: Schwartz & Kallick, Communications of the ACM 7(3), 1964.
    """
    taken = sum(2 ** (LONGEST - length) for length in lengths if length)
    is_complete = taken == 2**LONGEST or sum(map(bool, lengths)) <= 1
    if not is_complete or max(lengths, default=0) > LONGEST:
        raise ValueError(f"no Huffman code has words of these lengths: {list(lengths)}")
    words, word, before = np.zeros(len(lengths), dtype=np.int64), 0, 0
    for length, symbol in sorted((length, s) for s, length in enumerate(lengths) if length):
        word <<= length - before
        words[symbol], word, before = word, word + 1, length
    return words


def _lookup(lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """By the next `LONGEST` bits of a stream, the symbol of its first word and the word's length.

    The length is 0 where no word begins so.
    """
    words = canonical(lengths)
    symbol, size = np.zeros((2, 2**LONGEST), dtype=np.int64)
    for number, length in enumerate(lengths):
        if length:
            start = int(words[number]) << (LONGEST - length)
            symbol[start : start + 2 ** (LONGEST - length)] = number
            size[start : start + 2 ** (LONGEST - length)] = length
    return symbol, size
