"""A matrix of evenly spaced levels whose codes are stored by an entropy coder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from lowrank.factorizations import ans
from lowrank.factorizations.coded import Coded
from lowrank.factorizations.configs import dtype_in, shape_in
from lowrank.factorizations.laws import LARGEST_CODE, Exponents, Law, contexts, width
from lowrank.factorizations.packing import pack, packed_bytes, unpack
from lowrank.factorizations.tracing import untraced
from lowrank.files.fields import Fields
from lowrank.numerics.memo import memoised
from lowrank.numerics.normalised import as_float32, times_power
from lowrank.numerics.storage import dtype_name

PARTS: tuple[str, ...] = ("row_step", "column_step", "row_spread", "column_spread")
# Twice the exponent of a spread at which all codes are about equally likely.
WIDEST = 126
STORED = ("numbers", "stream", *PARTS)


@dataclass(frozen=True)
class Stored:
    """The stored content of an `EntropyCoded`.

    Attributes:
        reach, centre: of the law.
        exponent: of a power of two by which all is multiplied; 0 where float32 holds the step.
        widths: bits of each of `PARTS`, 0 where all its exponents are 0.
        tensors: uint8: ``stream``, ``numbers`` (step, linear and square as float32) and `PARTS`.
    """

    reach: int
    widths: dict[str, int]
    tensors: dict[str, Tensor]
    centre: int = 0
    exponent: int = 0


class EntropyCoded(Coded):
    """W = code · step, the codes integers of any size, stored in the bits that they carry.

    Codes of fixed width spend as much on a level that hardly occurs as on the most frequent one,
    and need a scale for each group so that their few levels suit its weights. An entropy code needs
    neither: one step for all, outliers simply take more bits, zeros few. At the same bytes the step
    is about half as large as with 4 bits and groups of 64, and widths are not whole numbers.

    Stored are the codes, by `ans`, with a law for their probabilities: 3 numbers, and for rows and
    columns that are not like the others exponents of few bits, of their steps and of how far their
    codes spread. The reach and centre of the law and the widths of the exponents, some 4 bytes,
    are in `config`, like the shape. Multiplied as a dense matrix, so it saves bytes, not time;
    decoding a matrix takes some ten milliseconds, however large up to millions of weights, and is
    done once. It cannot be trained. A compiled or exported model decodes by an operator of this
    module, which must be imported where such a model is loaded; `torch.jit.trace` keeps the matrix.

    Args:
        shape: (out, in).
        stored: the tensors; `of` makes them.
        dtype: of W.

    Source: Han, Mao & Dally, ICLR 2016, section 4 (entropy-coded weights); Gish & Pierce,
    Asymptotically efficient quantizing, 1968 (why one step for all).
    """

    stream: Tensor
    numbers: Tensor

    def __init__(self, shape: tuple[int, int], stored: Stored, dtype: torch.dtype) -> None:
        super().__init__(shape)
        self.reach, self.centre = stored.reach, stored.centre
        self.exponent = stored.exponent
        self.widths = stored.widths
        for name, tensor in stored.tensors.items():
            self.register_buffer(name, tensor)
        self._keep_dtype(dtype, stored.tensors["stream"].device)
        # Made here and not in `forward`: compilers cannot trace the writing of JSON.
        self._fixed = json.dumps(self._fixed_config())

    @classmethod
    def of(
        cls,
        codes: Tensor,
        levels: tuple[float, Exponents],
        coding: tuple[Law, Exponents],
        dtype: torch.dtype = torch.float32,
        exponent: int = 0,
    ) -> Self:
        """The matrix of codes (out, in), integers.

        Args:
            levels: the step between them where exponents are 0, above 0, rounded to the digits of
                float32, and factors of it.
            coding: the law of the codes, and factors of their spread.
            dtype: of W. It is computed in float32, for float64 in float64, and then rounded.
            exponent: of a power of two by which the step is multiplied; with it the step may have
                any size.

        Raises:
            ValueError: codes that are no integer matrix, a step that is not above 0 and finite,
                exponents that do not fit the codes, or codes beyond the law's reach.
        """
        (step, steps), (law, spreads) = levels, coding
        check_codes(codes)
        step, exponent = as_float32(step, exponent)
        exponents = (steps.row, steps.column, spreads.row, spreads.column)
        parts: dict[str, Tensor] = dict(zip(PARTS, exponents, strict=True))
        lengths, expected = [len(part) for part in exponents], [*codes.shape, *codes.shape]
        if lengths != expected:
            raise ValueError(
                f"exponents of lengths {lengths} do not fit codes of shape {tuple(codes.shape)}, "
                f"which need {expected}"
            )
        largest = int((codes - law.centre).abs().max())
        if largest > law.reach:
            raise ValueError(
                f"codes up to {largest} from the centre need a law that reaches them, and this one "
                f"reaches {law.reach}. Take a larger step: fewer bits."
            )
        symbols = codes - law.centre + law.reach
        numbers = torch.tensor([step, law.linear, law.square], dtype=torch.float32)
        tensors = {
            # Kept as bytes: rounded to another dtype, they would decode to something else.
            "numbers": numbers.view(torch.uint8).to(codes.device),
            "stream": ans.encode(symbols.flatten(), *contexts(law, spreads)),
        }
        widths = {name: width(part) for name, part in parts.items()}
        for name, bits in widths.items():
            tensors[name] = pack(parts[name], bits) if bits else codes.new_empty(0).byte()
        shape = (codes.shape[0], codes.shape[1])
        return cls(shape, Stored(law.reach, widths, tensors, law.centre, exponent), dtype)

    @property
    def step(self) -> float:
        """Between levels where exponents are 0."""
        return math.ldexp(self._numbers()[0], self.exponent)

    @property
    def codes(self) -> Tensor:
        """The codes, decoded, (out, in), int64."""
        law, spreads = self.coding
        symbols = ans.decode(self.stream, *contexts(law, spreads))
        return symbols.view(self.shape) - self.reach + self.centre

    def to_dense(self) -> Tensor:
        if torch.compiler.is_compiling():
            tensors = [self.get_buffer(name) for name in STORED]
            return decoded(tensors, self._fixed, self._as_dtype.dtype)
        with untraced():
            return self._decoded()

    def _decoded(self) -> Tensor:
        return self.levels(self.codes, self.steps)

    def levels(self, codes: Tensor, steps: Exponents) -> Tensor:
        """The weights of some rows of codes.

        Args:
            steps: of these rows, and all columns.
        """
        dtype = self._as_dtype.dtype
        return self.scaled(codes, steps.factors(torch.promote_types(dtype, torch.float32))).to(
            dtype
        )

    def scaled(self, codes: Tensor, factors: Tensor) -> Tensor:
        """Codes times the step, each times a factor of it."""
        number, power = math.frexp(self._numbers()[0])
        # The power of two last: nothing before it leaves the range if W does not.
        return times_power(codes * (number * factors), power + self.exponent)

    @property
    def steps(self) -> Exponents:
        """Factors of the step between levels."""
        return self._exponents("step")

    def config(self) -> dict[str, Any]:
        return self._fixed_config() | {"dtype": dtype_name(self._as_dtype.dtype)}

    def _fixed_config(self) -> dict[str, Any]:
        """All of `config` but the dtype, which follows that of the model."""
        return {
            "type": "EntropyCoded",
            "shape": list(self.shape),
            "reach": self.reach,
            "centre": self.centre,
            "exponent": self.exponent,
            "widths": self.widths,
            "stream_bytes": len(self.stream),
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
        centre = config.integer("centre", -(2**53), 2**53)
        exponent = config.integer("exponent", -4096, 4096)
        reach = config.integer("reach", 0, LARGEST_CODE)
        stored = Stored(reach, widths, tensors, centre, exponent)
        return cls((rows, columns), stored, dtype_in(config, "dtype"))

    def check_stored(self) -> None:
        step, linear, square = self._numbers()
        if not all(0 <= number < math.inf for number in (step, linear, square)):
            raise ValueError(f"step, linear and square are {step}, {linear} and {square}: below 0")
        dtype = torch.promote_types(self._as_dtype.dtype, torch.float32)
        power = int(self.steps.total().max()) / 2 + self.exponent
        if step and math.log2(step) + power >= math.log2(torch.finfo(dtype).max):
            raise ValueError(f"a step of {step:.3g} times 2^{power:g} is beyond the largest number")
        widest = int(self.coding[1].total().max())
        if widest > WIDEST:
            raise ValueError(f"exponents of spreads sum up to {widest}, which is above {WIDEST}")
        _ = self.codes  # Decoding says whether the stream is one.

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
        return Law(linear, square, self.reach, self.centre), self._exponents("spread")

    def _exponents(self, kind: str) -> Exponents:
        values = []
        for side, length in zip(("row", "column"), self.shape, strict=True):
            name = f"{side}_{kind}"
            bits, packed = self.widths[name], getattr(self, name)
            zeros = torch.zeros(length, dtype=torch.uint8, device=packed.device)
            values.append(unpack(packed, bits, length) if bits else zeros)
        return Exponents(*values)


@torch.library.custom_op("lowrank::entropy_coded", mutates_args=())
def decoded(tensors: list[Tensor], config: str, dtype: torch.dtype) -> Tensor:
    """The matrix of an `EntropyCoded` as one operator, into which no compiler looks.

    Args:
        tensors: those called `STORED`.
        config: of the matrix without its dtype, JSON.
        dtype: of the matrix.
    """
    # Code that compiled the operator may write into its result.
    return kept_matrix(*tensors, config=config, dtype=dtype).clone()


@decoded.register_fake
def _(tensors: list[Tensor], config: str, dtype: torch.dtype) -> Tensor:
    return tensors[0].new_empty(json.loads(config)["shape"], dtype=dtype)


@memoised
def kept_matrix(*tensors: Tensor, config: str, dtype: torch.dtype) -> Tensor:
    """The same, decoded once."""
    whole = json.loads(config) | {"dtype": dtype_name(dtype)}
    form = EntropyCoded.from_config(Fields(whole, "config"))
    for name, tensor in zip(STORED, tensors, strict=True):
        setattr(form, name, tensor)
    return form._decoded()


def check_codes(codes: Tensor) -> None:
    """Raise ValueError unless they are a matrix of integers."""
    if codes.ndim != 2 or not codes.numel() or codes.is_floating_point() or codes.is_complex():
        raise ValueError(
            f"codes must be a matrix of integers, not of shape {tuple(codes.shape)} and "
            f"{codes.dtype}"
        )


def least_bytes(count: int) -> int:
    """Bytes of `count` codes that are all equal: three numbers, and a state of each stream."""
    return 12 + 4 * ans.streams(count)
