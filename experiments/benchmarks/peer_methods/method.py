"""The interface of the compared methods: their input, their result, and the count of its bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

SCALE_BITS = 16


@dataclass(frozen=True)
class Subject:
    """The model to compress, and its calibration inputs.

    Attributes:
        model: the dense model, which no method changes.
        layers: the names of the linear layers to compress.
        tokens: the calibration inputs, (samples, length), int64.
        folder: where the model lies, for a tool that loads it itself.
    """

    model: nn.Module
    layers: tuple[str, ...]
    tokens: Tensor
    folder: Path

    def weights(self) -> dict[str, Tensor]:
        """The weights (out, in) of the layers, by name."""
        return weights_of(self.model, self.layers)


@dataclass(frozen=True)
class Kept:
    """One compressed weight.

    Attributes:
        weight: the matrix (out, in) that the layer multiplies with, float32.
        bits: of its storage: codes packed without gaps, scales, zero points, values, index.
        held_bits: of the tensors in which the library itself keeps it.
    """

    weight: Tensor
    bits: int
    held_bits: int


@dataclass(frozen=True)
class Outcome:
    """The result of a method.

    Attributes:
        kept: by name of the layer.
        seconds: of the compression, where the method knows better than who called it.
    """

    kept: Mapping[str, Kept]
    seconds: float | None = None

    def bits_per_weight(self) -> float:
        """Of everything that has to be stored."""
        return self._per_weight(sum(kept.bits for kept in self.kept.values()))

    def held_bits_per_weight(self) -> float:
        """As the library keeps it."""
        return self._per_weight(sum(kept.held_bits for kept in self.kept.values()))

    def _per_weight(self, bits: int) -> float:
        return bits / sum(kept.weight.numel() for kept in self.kept.values())


class Method(ABC):
    """One way to compress linear layers."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As the table calls it."""

    def missing(self) -> str:
        """The step that is missing before it can run, such as an installation; "" if none."""
        return ""

    @abstractmethod
    def compress(self, subject: Subject) -> Outcome:
        """Compress every layer of the subject; includes the calibration, if it needs one."""


def not_installed(package: str) -> str:
    """The command that installs a missing package of the extra; "" if it is installed."""
    if find_spec(package) is not None:
        return ""
    return f"{package} is not installed: pip install 'lowrank[peers]'"


def weights_of(model: nn.Module, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """The weights of these layers, by name."""
    return {name: model.get_parameter(f"{name}.weight").detach() for name in layers}


def divisor_near(columns: int, size: int) -> int:
    """The divisor of `columns` nearest to `size`, of two the smaller.

    A group size that all tools take: most refuse one that does not divide the inputs of a layer.
    """
    divisors = [d for d in range(1, columns + 1) if columns % d == 0]
    return min(divisors, key=lambda d: (abs(d - size), d))


def divisor_from(columns: int, size: int) -> int:
    """The smallest divisor of `columns` that is at least `size`, or `columns` itself."""
    return next((d for d in range(size, columns) if columns % d == 0), columns)


def quantized_bits(weights: int, bits: int, groups: int, zero_bits: int) -> int:
    """Codes and zero points, each packed without gaps to whole bytes, and 16-bit scales.

    Args:
        weights: how many codes of `bits` bits.
        groups: how many scales, and zero points of `zero_bits` bits (0: there are none).
    """
    return whole_bytes(weights * bits) + groups * SCALE_BITS + whole_bytes(groups * zero_bits)


def sparse_bits(weight: Tensor) -> int:
    """The non-zeros in 16 bits and one bit for each position; 2:4 takes no less of an index."""
    return int(weight.count_nonzero()) * SCALE_BITS + whole_bytes(weight.numel())


def tensor_bits(*tensors: Tensor) -> int:
    """The bits of the tensors' numbers."""
    return sum(8 * tensor.nbytes for tensor in tensors)


def whole_bytes(bits: int) -> int:
    """That many bits, rounded up to whole bytes, in bits."""
    return -(-bits // 8) * 8


def in_half(tensor: Tensor) -> Tensor:
    """The numbers as 16 bits hold them, in float32."""
    return tensor.half().float()
