"""Norms in which the error of an approximation is measured.

A weight W of shape (out, in) maps inputs x to outputs W x. The mean squared error of the outputs is
E‖(W − Ŵ) x‖² = ‖(W − Ŵ) B^{1/2}‖², where B = E[x xᵀ] is the second moment of the inputs. `Identity`
knows nothing of B, `Diagonal` knows its diagonal, and `Full` knows all of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lowrank.norms.checks import check_damping, check_fits, check_importance, check_moment
from lowrank.norms.moments import is_semidefinite, refuse_indefinite, whitened
from lowrank.numerics import memo


class Norm(ABC):
    """‖A^{1/2} (W − Ŵ) B^{1/2}‖_F for a weight W of shape (out, in), A diagonal.

    A weighs the outputs; B is the second moment of the inputs.

    Attributes:
        word: for configs and reports.
    """

    word: ClassVar[str]

    @abstractmethod
    def __call__(self, difference: Tensor) -> float:
        """The norm of a matrix of shape (out, in)."""

    @abstractmethod
    def check(self, weight: Tensor) -> None:
        """Raise ValueError unless this norm is one for weights of this shape (out, in)."""

    @abstractmethod
    def entry_weights(self, weight: Tensor) -> Tensor:
        """a_i · b_jj, what the squared error of each entry alone counts, float64.

        Of a shape that broadcasts to that of `weight`, (out, in).
        """

    @abstractmethod
    def second_moment(self, weight: Tensor) -> Tensor:
        """B, shape (in, in), float64, on the device of `weight`."""

    @abstractmethod
    def row_weights(self, weight: Tensor) -> Tensor:
        """The diagonal of A, float64, shape (out,) or (1,), on the device of `weight`."""

    @abstractmethod
    def whiten(self, weight: Tensor) -> Tensor:
        """A^{1/2} W R with R Rᵀ = B: its Frobenius norm is this norm of W. Same shape and dtype."""

    def describe(self) -> str:
        """The word for reports: identity, diagonal or full."""
        return self.word

    def size(self, weight: Tensor) -> float:
        """The norm of a weight, which every level asks for again."""
        return self(weight)

    def relative_error(self, weight: Tensor, approximation: Tensor) -> float:
        """‖W − Ŵ‖ / ‖W‖, summed in float64; 0 for an exact copy of a zero weight.

        Raises:
            ValueError: a weight of norm zero that is approximated by something else.
        """
        working = torch.promote_types(weight.dtype, torch.float32)
        weight, approximation = weight.detach().to(working), approximation.detach().to(working)
        if working == torch.float64:
            largest = float(weight.abs().max())
            # The squares of such numbers are beyond the range of float64.
            if largest and not 1e-120 < largest < 1e120:
                weight, approximation = weight / largest, approximation / largest
        error, scale = self(weight - approximation), self.size(weight)
        if error == 0:
            return 0.0
        if scale == 0:
            raise ValueError("the relative error of a zero weight is not defined")
        return error / scale


@dataclass(frozen=True)
class Identity(Norm):
    """The Frobenius norm: every entry of the weight counts the same."""

    word = "identity"

    def __call__(self, difference: Tensor) -> float:
        return float(torch.linalg.vector_norm(difference.detach(), dtype=torch.float64))

    def check(self, weight: Tensor) -> None:
        """Fits every weight."""

    def entry_weights(self, weight: Tensor) -> Tensor:
        return torch.ones(1, 1, dtype=torch.float64, device=weight.device)

    def second_moment(self, weight: Tensor) -> Tensor:
        return torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)

    def row_weights(self, weight: Tensor) -> Tensor:
        return torch.ones(1, dtype=torch.float64, device=weight.device)

    def whiten(self, weight: Tensor) -> Tensor:
        return weight


IDENTITY = Identity()


# Compared by identity, because tensors have no truth value.
@dataclass(frozen=True, eq=False, repr=False)
class Diagonal(Norm):
    """Each column is weighted by the mean square of its input, each row by its output's importance.

    Args:
        columns: the diagonal of B, shape (in,), such as E[x²]; None: all count the same.
        rows: the diagonal of A, shape (out,); None: all count the same.
        damping: added to every entry of each of the two, as a share of its mean; at least 0. So
            inputs that never occurred in the data have a weight above zero.

    Raises:
        ValueError: neither is given; entries that are negative, NaN or infinite, or all zero.
    """

    word = "diagonal"

    columns: Tensor | None = None
    rows: Tensor | None = None
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_damping(self.damping)
        if self.columns is None and self.rows is None:
            raise ValueError("Diagonal needs columns or rows; without either it is Identity()")
        for name in ("columns", "rows"):
            values = getattr(self, name)
            if values is not None:
                check_importance(name, values)
                object.__setattr__(self, name, damped(values, self.damping))

    def __call__(self, difference: Tensor) -> float:
        squares = difference.detach().double().square() * self.entry_weights(difference)
        return math.sqrt(float(squares.sum()))

    def check(self, weight: Tensor) -> None:
        check_fits("columns", self.columns, weight, weight.shape[1])
        check_fits("rows", self.rows, weight, weight.shape[0])

    def entry_weights(self, weight: Tensor) -> Tensor:
        return self.row_weights(weight)[:, None] * self._columns(weight)

    def second_moment(self, weight: Tensor) -> Tensor:
        return torch.diag(self._columns(weight).expand(weight.shape[1]))

    def row_weights(self, weight: Tensor) -> Tensor:
        return ones_or(self.rows, weight)

    def whiten(self, weight: Tensor) -> Tensor:
        return (weight.double() * self.entry_weights(weight).sqrt()).to(weight.dtype)

    def __repr__(self) -> str:
        return f"Diagonal({sizes(columns=self.columns, rows=self.rows)})"

    def _columns(self, weight: Tensor) -> Tensor:
        return ones_or(self.columns, weight)


@dataclass(frozen=True, eq=False, repr=False)
class Full(Norm):
    """The full second moment of the inputs: the error is that of the layer's outputs.

    Args:
        moment: B = E[x xᵀ], shape (in, in), symmetric and positive semi-definite; may be singular.
        rows: the diagonal of A, shape (out,); None: all count the same.
        damping: added to the diagonal of B, as a share of its mean, and to `rows` likewise; at
            least 0. Few data, or data in a subspace, leave directions whose error has no weight
            without damping.

    Raises:
        ValueError: no symmetric matrix, NaN or infinite entries, a negative or an all zero
            diagonal, negative eigenvalues.
    """

    word = "full"

    moment: Tensor
    rows: Tensor | None = None
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_damping(self.damping)
        check_moment(self.moment)
        moment = self.moment.double()
        if not is_semidefinite(moment):
            refuse_indefinite(moment)
        if self.damping:
            moment = moment.clone()
            moment.diagonal().add_(self.damping * moment.diagonal().mean())
        object.__setattr__(self, "moment", moment)
        if self.rows is not None:
            check_importance("rows", self.rows)
            object.__setattr__(self, "rows", damped(self.rows, self.damping))

    def __call__(self, difference: Tensor) -> float:
        squares = row_squares(difference.detach(), self.second_moment(difference))
        return self._root(squares, difference)

    def size(self, weight: Tensor) -> float:
        return self._root(kept_row_squares(weight, self.second_moment(weight)), weight)

    def check(self, weight: Tensor) -> None:
        check_fits("moment", self.moment, weight, weight.shape[1])
        check_fits("rows", self.rows, weight, weight.shape[0])

    def entry_weights(self, weight: Tensor) -> Tensor:
        return self.row_weights(weight)[:, None] * self.second_moment(weight).diagonal()

    def second_moment(self, weight: Tensor) -> Tensor:
        return self.moment.to(weight.device)

    def row_weights(self, weight: Tensor) -> Tensor:
        return ones_or(self.rows, weight)

    def whiten(self, weight: Tensor) -> Tensor:
        rows = self.row_weights(weight).sqrt()[:, None]
        return (rows * whitened(weight, self.second_moment(weight))).to(weight.dtype)

    def _root(self, squares: Tensor, weight: Tensor) -> float:
        # Rounding can make a zero sum negative.
        return math.sqrt(max(0.0, float((squares * self.row_weights(weight)).sum())))

    def __repr__(self) -> str:
        return f"Full({sizes(moment=self.moment, rows=self.rows)})"


def row_squares(matrix: Tensor, moment: Tensor) -> Tensor:
    """The diagonal of M B Mᵀ for a matrix M (out, in), in float64, shape (out,)."""
    matrix = matrix.double()
    return ((matrix @ moment) * matrix).sum(dim=1)


kept_row_squares = memo.memoised(row_squares)


def damped(values: Tensor, damping: float) -> Tensor:
    """Values (n,) in float64, each with that share of their mean added."""
    values = values.double()
    return values + damping * values.mean()


def ones_or(values: Tensor | None, weight: Tensor) -> Tensor:
    """`values` on the device of `weight`, or a one that stands for all of them."""
    if values is None:
        return torch.ones(1, dtype=torch.float64, device=weight.device)
    return values.to(weight.device)


def sizes(**values: Tensor | None) -> str:
    """``columns: 64`` for a tensor of that length."""
    return ", ".join(f"{name}: {len(v)}" for name, v in values.items() if v is not None)
