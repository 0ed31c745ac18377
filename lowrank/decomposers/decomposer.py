"""Decomposers: the interface of every method that turns a weight into a factorization."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import ClassVar

import torch
import xxhash
from torch import Tensor

from lowrank.approximation.levels import LEVELS, gentler
from lowrank.approximation.weight_checks import check_finite, check_weight
from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.norms import IDENTITY, Identity, Norm
from lowrank.numerics.memo import fingerprint
from lowrank.numerics.versions import version

LinAlgError: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]


class Unfit(ValueError):
    """A hyperparameter that a weight of this shape cannot have.

    Attributes:
        nearest: the method at the nearest level that the weight can have; None where no level is
            near, as of a rank above its sides.
    """

    def __init__(self, text: str, nearest: Decomposer | None = None) -> None:
        super().__init__(text)
        self.nearest = nearest


@dataclass(frozen=True)
class Decomposer(ABC):
    """A method of compression with its hyperparameters; it knows matrices, never models.

    Laws: the weight is not changed; the factorization has the weight's shape, dtype and device; the
    same weight and hyperparameters give the same factorization.

    Attributes:
        norms: the norms in which the method can approximate.
        family: the methods with which it is drawn in figures and tables.
        levels: the fields that say how much it compresses; see `eased`.
    """

    norms: ClassVar[tuple[type[Norm], ...]] = (Identity,)
    family: ClassVar[str] = "other"
    levels: ClassVar[tuple[str, ...]] = tuple(LEVELS)

    @property
    def level(self) -> float | None:
        """The number that is swept: the place of a point on the method's curve.

        By default that of the first field that has one (see `first_level`), seeds aside.
        """
        return first_level(getattr(self, one.name) for one in fields(self) if one.name != "seed")

    def eased(self, share: float, side: int) -> Decomposer:
        """This method at a share of the way from no compression to its level, for compression in
        steps.

        The fields in `levels` that are numbers go that way (see `LEVELS`), where a compression
        ratio is given it alone, and so do the methods that are its parts. A method with neither
        stays as it is.

        Args:
            share: in [0, 1]; 1 is the method itself.
            side: the shorter side of the weight, as a matrix in the method's view.
        """
        changes: dict[str, object] = {**gentler(self, self.levels, share, side)}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Decomposer):
                changes[one.name] = value.eased(share, side)
            elif isinstance(value, list | tuple) and any(isinstance(v, Decomposer) for v in value):
                changes[one.name] = [v.eased(share, side) for v in value]
        return replace(self, **changes)

    def decompose(self, weight: Tensor, norm: Norm = IDENTITY) -> Factorization:
        """Approximate a weight of shape (out, in) in `norm`.

        Raises:
            ValueError: the weight is no finite floating-point matrix, a hyperparameter does not
                fit its shape, the method does not know the norm or the norm not the weight, or
                what it finds, or needs on the way, is too large for the weight's dtype.
        """
        check_weight(weight)
        self.check_shape(weight)
        self.check_norms((type(norm),))
        norm.check(weight)
        return self.approximate(weight, norm)

    def approximate(self, weight: Tensor, norm: Norm) -> Factorization:
        """What `decompose` gives, for a weight and a norm that have passed its checks.

        Raises:
            ValueError: the result is too large for the weight's dtype, or breaks a law.
        """
        before = version(weight)
        try:
            form = self._decompose(weight.detach(), norm)
        except LinAlgError as error:
            shape, largest = tuple(weight.shape), float(weight.detach().abs().max())
            raise ValueError(
                f"{type(self).__name__} found no decomposition of a weight of shape {shape} with "
                f"magnitudes up to {largest:.3g}: {error} Scale the weight, or take another method"
            ) from error
        self._check_form(form, weight)
        if version(weight) != before:
            raise ValueError(
                f"{type(self).__name__} wrote into the model's weight: compute on weight.clone()"
            )
        form = form.to(device=weight.device, dtype=weight.dtype)
        check_finite(form, weight.detach())
        return form

    def _check_form(self, form: object, weight: Tensor) -> None:
        """Raise ValueError unless it is a factorization of the weight's shape."""
        shape = tuple(form.shape) if isinstance(form, Factorization) else None
        if shape != tuple(weight.shape):
            raise ValueError(
                f"{type(self).__name__} must give a Factorization of the weight's shape "
                f"{tuple(weight.shape)}, and gave {shape or type(form).__name__}"
            )

    @abstractmethod
    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        """Approximate a finite matrix; must not change it.

        Its dtype is that in which the values of the result are stored, and so counts where bytes
        do. Compute with `working(weight)`; what is returned is converted back.
        """

    def check_shape(self, weight: Tensor) -> None:
        """Raise `Unfit` where a hyperparameter does not fit a weight of this shape (out, in).

        Called before any work: it reads the shape and dtype of `weight` and, for a ratio of bytes,
        the number of bits of its values. So the result can depend on the values: a float32 weight
        that was rounded to 16 bits takes half of the bytes to begin with.
        """
        del weight

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        """Raise ValueError unless the method, with all its steps, knows all of these norms."""
        check_norms(types, self.norms, by=type(self).__name__)

    def kernel_view(self) -> KernelView:
        """The matrix as which this method sees a convolution's kernel (see `Convolve`)."""
        return "channel"

    def for_kernel(self, size: tuple[int, ...]) -> Decomposer:
        """This method for the kernel of a convolution of this size; all 1 for other weights.

        The method itself, unless it factors kernels as tensors.
        """
        del size
        return self


def generator_for(weight: Tensor, seed: int) -> torch.Generator:
    """A generator of its own for each pair of numbers and seed; draws on the CPU.

    The seed alone would make all layers of one shape draw alike. In float64 and on the CPU, so that
    neither dtype nor device changes the draw.
    """
    content = fingerprint(weight.double().cpu())
    mixed = xxhash.xxh3_64_intdigest(f"{seed} {content}".encode())
    return torch.Generator().manual_seed(mixed)


def check_norms(types: tuple[type[Norm], ...], allowed: tuple[type[Norm], ...], by: str) -> None:
    """Raise ValueError unless a method knows all of these norms."""
    for cls in types:
        if not issubclass(cls, allowed):
            names = " or ".join(known.__name__ for known in allowed)
            raise ValueError(
                f"{by} cannot approximate in the norm {cls.__name__}: it supports "
                f"{names}. Leave out the norm, or use a method that knows it."
            )


def check_rank(rank: int, weight: Tensor) -> None:
    """Raise `Unfit` unless a weight of shape (out, in) has factors of this rank."""
    if not 1 <= rank <= min(weight.shape):
        raise Unfit(
            f"rank={rank} does not fit a weight of shape {tuple(weight.shape)}: it must lie in "
            f"1..{min(weight.shape)}. Lower it, or leave this layer out with `where`."
        )


def count_of(sparsity: float, total: int) -> int:
    """The number of `total` weights that stay at this share of zeros.

    Raises:
        Unfit: none.
    """
    count = total - round(sparsity * total)
    if count < 1:
        raise Unfit(
            f"sparsity={sparsity} keeps none of {total} weights. Lower it, or leave this layer out "
            "with `where`."
        )
    return count


def at_reachable(
    method: Decomposer, ratio: float, fits: Callable[[float], bool]
) -> Decomposer | None:
    """The method at the largest `compression_ratio` from 1 to `ratio` that `fits`, to 9 digits.

    None if none does.

    Args:
        fits: whether a ratio can be reached; once it cannot, no larger one can.
    """
    if not fits(1.0):
        return None
    low, high = 1.0, ratio
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return replace(method, compression_ratio=low)  # type: ignore[call-arg]


def first_level(values: Iterable[object]) -> float | None:
    """The level of the first value that has one; None if none has.

    A number is its own level. Several numbers, such as the ranks of a kernel, have their product; a
    method has its own level, and several methods that of the first.
    """
    return next((level for value in values if (level := _level(value)) is not None), None)


def _level(value: object) -> float | None:
    if isinstance(value, Decomposer):
        return value.level
    if isinstance(value, list | tuple) and value:
        numbers = [one for one in value if _is_number(one)]
        if len(numbers) == len(value):
            return math.prod(map(_level, numbers))  # type: ignore[arg-type]
        return value[0].level if isinstance(value[0], Decomposer) else None
    if not _is_number(value):
        return None
    return int(value) if isinstance(value, Integral) else float(value)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@contextmanager
def nearest_of(outer: Callable[[Decomposer], Decomposer]) -> Iterator[None]:
    """Raise the `Unfit` of a part of a method as one of the whole method.

    Args:
        outer: the whole method, made of another part.
    """
    try:
        yield
    except Unfit as error:
        raise Unfit(str(error), error.nearest and outer(error.nearest)) from error
