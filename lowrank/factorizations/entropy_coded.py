"""A matrix of evenly spaced levels whose codes take as many bits as they carry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Any, Self

import torch
from torch import Tensor

from lowrank.factorizations import ans
from lowrank.factorizations.configs import dtype_in, shape_in
from lowrank.factorizations.factorization import Dense, Factorization, Leaf, dtype_name
from lowrank.factorizations.packing import pack, packed_bytes, unpack
from lowrank.fields import Fields

# Digits with which probabilities are computed: correctly rounded, the same on every machine.
EXACT = Context(prec=20)
# Of far more, the frequencies would not fit in their 16 bits.
LARGEST_CODE = 2**12
# Twice the exponent of a spread for which all codes are about as likely.
WIDEST = 126


@dataclass(frozen=True)
class Law:
    """How often codes q occur: p(q) ∝ exp(−linear · |q|/s − square · q²/s²), s their spread.

    Args:
        linear, square: at least 0, not both 0; Laplace's law has no square, Gauss' no linear part.
            Rounded to float32, in which they are stored.
        reach: the largest |q|.
    """

    linear: float
    square: float
    reach: int

    def __post_init__(self) -> None:
        for name in ("linear", "square"):
            object.__setattr__(self, name, float(torch.tensor(getattr(self, name)).float()))

    def frequencies(self, exponents: range) -> Tensor:
        """Those of −reach..reach for spreads 2^(exponent/2), (exponents, 2 · reach + 1), int64.

        Integers of at least 1 that sum to 2^16, the same on every machine.
        """
        return torch.tensor([self._frequencies(exponent) for exponent in exponents])

    def _frequencies(self, exponent: int) -> list[int]:
        with localcontext(EXACT):
            square = Decimal(self.square) / Decimal(2) ** exponent
            linear = Decimal(self.linear) / (Decimal(2) ** exponent).sqrt()
            weight, ratio = Decimal(1), (-linear - square).exp()
            falling, weights = (-2 * square).exp(), [2**60]
            while len(weights) <= self.reach and weights[-1]:
                weight, ratio = weight * ratio, ratio * falling
                weights.append(int(weight * 2**60))
            weights += [0] * (self.reach + 1 - len(weights))
        both = [*weights[:0:-1], *weights]
        total, spare = sum(both), ans.TOTAL - len(both)
        found = [1 + weight * spare // total for weight in both]
        found[self.reach] += ans.TOTAL - sum(found)
        return found


@dataclass(frozen=True)
class Exponents:
    """For each entry (i, j) of a matrix the factor 2^((row[i] + column[j]) / 2).

    Args:
        row, column: shapes (out,) and (in,), integers in 0..255; without bits where all are 0.
    """

    row: Tensor
    column: Tensor

    def total(self) -> Tensor:
        """row[i] + column[j], (out, in), int64."""
        return self.row.long()[:, None] + self.column.long()

    def factors(self, dtype: torch.dtype) -> Tensor:
        """The factors, (out, in)."""
        return torch.exp2(self.total().to(dtype) / 2)

    @property
    def bits(self) -> int:
        """What storing them takes, but for what fills up the last byte of either."""
        return sum(len(values) * width(values) for values in (self.row, self.column))


def width(values: Tensor) -> int:
    """Bits of the largest of integers."""
    return int(values.max()).bit_length()


PARTS: tuple[str, ...] = ("row_step", "column_step", "row_spread", "column_spread")


@dataclass(frozen=True)
class Stored:
    """What an `EntropyCoded` keeps.

    Attributes:
        reach: of the law.
        widths: bits of each of `PARTS`, 0 where all its exponents are 0.
        tensors: uint8: ``stream``, ``numbers`` (step, linear and square as float32) and `PARTS`.
    """

    reach: int
    widths: dict[str, int]
    tensors: dict[str, Tensor]


class EntropyCoded(Leaf):
    """W = code · step, the codes integers of any size, stored in the bits that they carry.

    Codes of fixed width spend as much on a level that hardly occurs as on the most frequent one,
    and need a scale for each group so that their few levels suit its weights. An entropy code needs
    neither: one step for all, outliers simply take more bits, zeros few. At the same bytes the step
    is about half as large as with 4 bits and groups of 64, and widths are not whole numbers.

    Stored are the codes, by `ans`, with a law for their probabilities: 3 numbers, and for rows and
    columns that are not like the others exponents of few bits, of their steps and of how far their
    codes spread. The reach of the law and the widths of the exponents, some 4 bytes, are in
    `config`, like the shape. Multiplied as a dense matrix, so it saves bytes, not time; decoding a
    matrix takes some ten milliseconds, however large up to millions of weights, and is done once.
    It cannot be trained.

    Args:
        shape: (out, in).
        stored: the tensors; `of` makes them.
        dtype: of W.

    Source: Han, Mao & Dally, ICLR 2016, section 4 (entropy-coded weights); Gish & Pierce,
    Asymptotically efficient quantizing, 1968 (why one step for all).
    """

    stream: Tensor
    numbers: Tensor
    _as_dtype: Tensor

    def __init__(self, shape: tuple[int, int], stored: Stored, dtype: torch.dtype) -> None:
        super().__init__(shape)
        self.reach = stored.reach
        self.widths = stored.widths
        for name, tensor in stored.tensors.items():
            self.register_buffer(name, tensor)
        # Holds no numbers: it follows `to(dtype)` as a weight would, and so says W's dtype.
        marker = torch.empty(0, dtype=dtype, device=stored.tensors["stream"].device)
        self.register_buffer("_as_dtype", marker, persistent=False)

    @classmethod
    def of(
        cls,
        codes: Tensor,
        levels: tuple[float, Exponents],
        coding: tuple[Law, Exponents],
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The matrix of codes (out, in), integers.

        Args:
            levels: the step between them where exponents are 0, rounded to float32, and factors of
                it.
            coding: the law of the codes, and factors of their spread.
            dtype: of W. It is computed in float32, for float64 in float64, and then rounded.

        Raises:
            ValueError: exponents that do not fit the codes, or codes beyond the law's reach.
        """
        (step, steps), (law, spreads) = levels, coding
        exponents = (steps.row, steps.column, spreads.row, spreads.column)
        parts: dict[str, Tensor] = dict(zip(PARTS, exponents, strict=True))
        lengths, expected = [len(part) for part in exponents], [*codes.shape, *codes.shape]
        if lengths != expected:
            raise ValueError(
                f"exponents of lengths {lengths} do not fit codes of shape {tuple(codes.shape)}, "
                f"which need {expected}"
            )
        largest = int(codes.abs().max())
        if not largest <= law.reach <= LARGEST_CODE:
            raise ValueError(
                f"codes up to {largest} need a law that reaches them, which can be up to "
                f"{LARGEST_CODE}; this one reaches {law.reach}. Take a larger step: fewer bits."
            )
        numbers = torch.tensor([step, law.linear, law.square], dtype=torch.float32)
        tensors = {
            # Kept as bytes: rounded to another dtype, they would decode to something else.
            "numbers": numbers.view(torch.uint8).to(codes.device),
            "stream": ans.encode((codes + law.reach).flatten(), *contexts(law, spreads)),
        }
        widths = {name: width(part) for name, part in parts.items()}
        for name, bits in widths.items():
            tensors[name] = pack(parts[name], bits) if bits else codes.new_empty(0).byte()
        shape = (codes.shape[0], codes.shape[1])
        return cls(shape, Stored(law.reach, widths, tensors), dtype)

    @property
    def step(self) -> float:
        """Between levels where exponents are 0."""
        return self._numbers()[0]

    @property
    def codes(self) -> Tensor:
        """The codes, decoded, (out, in), int64."""
        law, spreads = self.coding
        symbols = ans.decode(self.stream, *contexts(law, spreads))  # type: ignore[call-arg]
        return symbols.view(self.shape) - self.reach

    def to_dense(self) -> Tensor:
        dtype = self._as_dtype.dtype
        working = torch.promote_types(dtype, torch.float32)
        return (self.codes * (self.step * self._exponents("step").factors(working))).to(dtype)

    @property
    def params(self) -> int:
        return self.shape[0] * self.shape[1]

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return self

    def config(self) -> dict[str, Any]:
        return {
            "type": "EntropyCoded",
            "shape": list(self.shape),
            "reach": self.reach,
            "widths": self.widths,
            "stream_bytes": len(self.stream),
            "dtype": dtype_name(self._as_dtype.dtype),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        rows, columns = shape_in(config)
        given = config.fields("widths")
        widths = {name: given.integer(name, most=8) for name in PARTS}
        lengths = zip(PARTS, (rows, columns, rows, columns), strict=True)
        sizes = {name: packed_bytes(length, widths[name]) for name, length in lengths}
        sizes |= {"numbers": 12, "stream": config.integer("stream_bytes")}
        tensors = {name: torch.zeros(size, dtype=torch.uint8) for name, size in sizes.items()}
        stored = Stored(config.integer("reach", 1, LARGEST_CODE), widths, tensors)
        return cls((rows, columns), stored, dtype_in(config, "dtype"))

    def check_stored(self) -> None:
        step, linear, square = self._numbers()
        if not all(0 <= number < math.inf for number in (step, linear, square)):
            raise ValueError(f"step, linear and square are {step}, {linear} and {square}: below 0")
        if linear == square == 0:
            raise ValueError("a law of codes is not both linear=0 and square=0")
        largest = step * 2 ** (int(self._exponents("step").total().max()) / 2)
        if largest > torch.finfo(torch.promote_types(self._as_dtype.dtype, torch.float32)).max:
            raise ValueError(f"a step of {largest:.3g} is beyond the largest number")
        widest = int(self.coding[1].total().max())
        if widest > WIDEST:
            raise ValueError(f"exponents of spreads sum up to {widest}, which is above {WIDEST}")
        assert self.codes.shape == self.shape  # Decoding says whether the stream is one.

    def describe(self) -> str:
        stored = sum(tensor.nbytes for tensor in self.state_dict().values())
        bits = 8 * stored / (self.shape[0] * self.shape[1])
        return f"EntropyCoded {self.shape[1]}→{self.shape[0]}, {bits:.2f} bits"

    def _numbers(self) -> list[float]:
        return self.numbers.cpu().view(torch.float32).tolist()

    @property
    def coding(self) -> tuple[Law, Exponents]:
        """The law of the codes and how far they spread."""
        _, linear, square = self._numbers()
        return Law(linear, square, self.reach), self._exponents("spread")

    def _exponents(self, kind: str) -> Exponents:
        values = []
        for side, length in zip(("row", "column"), self.shape, strict=True):
            name = f"{side}_{kind}"
            bits, packed = self.widths[name], getattr(self, name)
            zeros = torch.zeros(length, dtype=torch.uint8, device=packed.device)
            values.append(unpack(packed, bits, length) if bits else zeros)
        return Exponents(*values)


def contexts(law: Law, spreads: Exponents) -> tuple[Tensor, Tensor]:
    """Of each code, in order, its row of the frequencies, and these."""
    exponents = spreads.total().flatten()
    return exponents, law.frequencies(range(int(exponents.max()) + 1))
