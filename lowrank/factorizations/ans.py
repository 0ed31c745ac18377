"""Asymmetric numeral systems (ANS): an entropy coder close to the information content.

A symbol of frequency f, out of 2^16, takes log2(2^16 / f) bits, fractions of a bit included. The
symbols are dealt to interleaved streams, one for each `LENGTH` of them, which take a step together:
so a matrix of any size is decoded in about as many steps. Each stream wastes 2 bytes.

Only integers are computed with, so that every machine decodes the same.

Source: Duda, Asymmetric numeral systems, 2013; Giesen, Interleaved entropy coders, 2014 (the
variant with 32 bits of state, whole words and streams side by side).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

PRECISION = 16
TOTAL = 1 << PRECISION
# Symbols of one stream.
LENGTH = 2048
NO_STREAM = "a stream of entropy codes cannot be decoded: it is damaged, or not that of this matrix"


def encode(symbols: Tensor, contexts: Tensor, frequencies: Tensor) -> Tensor:
    """Symbols as bytes (uint8), on their device.

    Args:
        symbols: shape (n,), integers in 0..alphabet − 1.
        contexts: which frequencies each symbol has, shape (n,), integers.
        frequencies: shape (contexts, alphabet), integers of at least 1, each row summing to 2^16.
    """
    at = contexts.cpu().long(), symbols.cpu().long()
    table = frequencies.cpu().long()
    own = table[at].numpy().astype(np.uint64)
    below = (table.cumsum(dim=1) - table)[at].numpy().astype(np.uint64)
    states = np.full(streams(len(own)), TOTAL, dtype=np.uint64)
    words = []
    for part in reversed(list(_steps(len(own)))):
        state, frequency = states[: part.stop - part.start], own[part]
        full = state >= frequency << PRECISION
        words.append((state[full] & (TOTAL - 1)).astype("<u2"))
        state[full] >>= PRECISION
        state[:] = ((state // frequency) << PRECISION) + state % frequency + below[part]
    pieces = [states.astype("<u4"), *reversed(words)]
    stream = np.concatenate([np.frombuffer(piece.tobytes(), np.uint8) for piece in pieces])
    return torch.from_numpy(stream).to(symbols.device)


def decode(stream: Tensor, contexts: Tensor, frequencies: Tensor) -> Tensor:
    """The symbols of `encode`, shape (n,), int64, on the device of the stream.

    Raises:
        ValueError: the stream is not one of that many symbols with these frequencies.
    """
    # Not as a decorator, which imports the compiler, for a second, though nothing is compiled.
    if torch.compiler.is_compiling():
        return torch.compiler.disable(_decode)(stream, contexts, frequencies)  # type: ignore[call-arg]
    return _decode(stream, contexts, frequencies)


def _decode(stream: Tensor, contexts: Tensor, frequencies: Tensor) -> Tensor:
    context = contexts.cpu().long().numpy()
    symbols = np.empty(len(context), dtype=np.int64)
    parts = Decoder(frequencies).parts(stream, len(context), lambda part: context[part])
    for part, found in zip(_steps(len(context)), parts, strict=True):
        symbols[part] = found
    return torch.from_numpy(symbols).to(stream.device)


class Decoder:
    """The tables by which streams of some frequencies are decoded.

    Args:
        frequencies: as for `encode`.
    """

    def __init__(self, frequencies: Tensor) -> None:
        table = frequencies.cpu().long()
        self._below = (table.cumsum(dim=1) - table).numpy().astype(np.uint64)
        self._own = table.numpy().astype(np.uint64)
        alphabet = torch.arange(table.shape[1])
        # Which symbol each of the 2^16 places in a context stands for.
        rows = [alphabet.repeat_interleave(row).numpy().astype(np.uint16) for row in table]
        self._places = np.stack(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return self._below.nbytes + self._own.nbytes + self._places.nbytes

    def parts(
        self, stream: Tensor, count: int, contexts: Callable[[slice], np.ndarray]
    ) -> Iterator[np.ndarray]:
        """The symbols in their order (uint16), those of one step of the streams at a time.

        Args:
            count: of the symbols.
            contexts: of symbols i..j which frequencies each has.

        Raises:
            ValueError: the stream is not one of that many symbols with these frequencies; partly
                only at its end.
        """
        data = stream.detach().cpu().contiguous().numpy()
        own, below, places = self._own, self._below, self._places
        if len(data) < 4 * streams(count) or len(data) % 2:
            raise ValueError(NO_STREAM)
        states = np.frombuffer(data, "<u4", streams(count)).astype(np.uint64)
        words, read = np.frombuffer(data, "<u2", offset=4 * streams(count)), 0
        for part in _steps(count):
            state, where = states[: part.stop - part.start], contexts(part)
            place = state & (TOTAL - 1)
            found = places[where, place.astype(np.int64)]
            state[:] = own[where, found] * (state >> PRECISION) + place - below[where, found]
            low = np.flatnonzero(state < TOTAL)
            if read + len(low) > len(words):
                raise ValueError(NO_STREAM)
            state[low] = state[low] << PRECISION | words[read : read + len(low)].astype(np.uint64)
            read += len(low)
            yield found
        # Back where the encoder began.
        if read < len(words) or bool((states != TOTAL).any()):
            raise ValueError(NO_STREAM)


def streams(count: int) -> int:
    """The number of streams of a number of symbols."""
    return -(-count // LENGTH)


def _steps(count: int) -> Iterator[slice]:
    """The symbols that the streams take together, one each."""
    width = max(streams(count), 1)
    return (slice(start, min(start + width, count)) for start in range(0, count, width))
