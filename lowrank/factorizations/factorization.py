"""The interface of all factorizations: a linear map held in some form."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lowrank.factorizations.checks import check_floating
from lowrank.factorizations.configs import dtype_in, shape_in
from lowrank.factorizations.keeping import Keeping
from lowrank.factorizations.operations import Multiply, Operation
from lowrank.factorizations.tunable import Tunable
from lowrank.files.fields import FieldError, Fields, shown
from lowrank.numerics.storage import dtype_name, stored_bytes

MULTIPLY = Multiply()


class Factorization(nn.Module, ABC):
    """A linear map W of shape (out, in), held in some form.

    A subclass says how it multiplies (`forward`), what it equals (`to_dense`) and how it is
    described without its numbers (`config`). Size, parameters, MACs and error are derived from
    the leaves in `lowrank.measure`.

    Laws: `forward(x, operation, bias)` is `operation.apply(x, to_dense(), bias)` up to rounding;
    a factorization rebuilt by `from_config(config())` that loads `state_dict()` gives the same
    outputs bit for bit; the bytes of `state_dict()` are all that is stored.

    Attributes:
        shape: (out, in).
        notes: what a reader of the report should know, such as why a layer stayed dense.
        adapts: whether it is what an adapter adds to a frozen weight; see `adapters`.
    """

    types: ClassVar[dict[str, type[Factorization]]] = {}
    adapts: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # One with the name of its own base stands in for it, such as those that torch.export makes
        # of each class, and is not what files mean.
        if all(base.__name__ != cls.__name__ for base in cls.__mro__[1:]):
            Factorization.types[cls.__name__] = cls

    def __init__(self, shape: tuple[int, int], notes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.shape = (int(shape[0]), int(shape[1]))
        self.notes = notes

    @abstractmethod
    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        """Apply W to `x` as `operation` says; by default y = x Wᵀ + bias, (…, in) → (…, out)."""

    @abstractmethod
    def to_dense(self) -> Tensor:
        """W as one matrix of shape (out, in); differentiable where the form can be trained."""

    def multiplied_out(self, operation: Operation) -> bool:
        """Whether its factors are multiplied into one matrix at every call of the operation."""
        del operation
        return False

    @property
    @abstractmethod
    def params(self) -> int:
        """Stored learned values: non-zeros of a sparse leaf, codes of a quantized one."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors in a file, each once, 16 bits a number where all have no more."""
        stored = {id(tensor): tensor for tensor in self.state_dict(keep_vars=True).values()}
        return sum(map(stored_bytes, stored.values()))

    @abstractmethod
    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        """This form with every dense leaf replaced by what `function` makes of it."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON that, with `state_dict()`, rebuilds this factorization."""

    @property
    def dtype(self) -> torch.dtype:
        """Of W: that of its parameters, and of the marker of a leaf that has none."""
        markers = [b for n, b in self.named_buffers() if n.rpartition(".")[2] == "_as_dtype"]
        dtypes = [tensor.dtype for tensor in (*self.parameters(), *markers)]
        return functools.reduce(torch.promote_types, dtypes)

    def check_stored(self) -> None:
        """Raise ValueError unless the tensors of this node itself are those of some matrix.

        Called when they come from a file. Learned values may be any; indices, codes and scales
        that could not have been stored are refused.
        """

    def left_factor(self) -> Factorization | None:
        """The factor on the side of the outputs, if this node itself is a product; LoRA's B."""
        return None

    def tunable(self) -> dict[str, Tunable]:
        """Numbers of this node itself that are no parameters but may be moved, by buffer.

        While they are tuned, a tensor of the shape of their `numbers` that requires a gradient
        takes the buffer's place; `to_dense` is differentiable in it.
        """
        return {}

    @classmethod
    @abstractmethod
    def from_config(cls, config: Fields) -> Self:
        """A factorization of this form with its tensors not yet filled.

        It is called on the meta device too, where tensors have no numbers: a file is checked before
        memory is allocated. Buffers that are not stored and have numbers are derived when the
        others are loaded, by a `register_load_state_dict_post_hook`.
        """

    @abstractmethod
    def describe(self) -> str:
        """One line for people, such as ``LowRank 512→32→256``."""

    def __repr__(self) -> str:
        return self.describe()


def rebuild(config: Mapping[str, Any]) -> Factorization:
    """The factorization that `config` describes, its tensors not yet filled.

    Raises:
        ValueError: `config` names a type that is not loaded, or no such factorization can be.
    """
    fields = config if isinstance(config, Fields) else Fields(config, "config")
    name = fields.text("type")
    cls = Factorization.types.get(name)
    if cls is None or inspect.isabstract(cls):
        known = sorted(n for n, cls in Factorization.types.items() if not inspect.isabstract(cls))
        raise FieldError(
            f"{fields.place}: factorization type {shown(name)} is not known; known are {known}. "
            "Import the module that defines it before loading."
        )
    try:
        return cls.from_config(fields)
    except FieldError:
        raise
    except Exception as error:  # A form of others may fail in any way on what it does not expect.
        raise FieldError(f"{fields.place} is no {name}: {error}") from error


def adapters(form: Factorization) -> list[Factorization]:
    """The parts of a form that adapt a weight; their parameters may train where it is frozen."""
    return [part for part in form.modules() if isinstance(part, Factorization) and part.adapts]


class Leaf(Keeping, Factorization):
    """A factorization that is applied as one dense matrix.

    Where nothing is to be trained, the matrix is kept, so that a sparse or quantized layer runs as
    a dense one does; see `Keeping`.
    """

    @property
    def density(self) -> float:
        """Share of the entries that a kernel exploiting zeros would multiply."""
        return self.params / (self.shape[0] * self.shape[1])

    def forward(
        self, x: Tensor, operation: Operation = MULTIPLY, bias: Tensor | None = None
    ) -> Tensor:
        return operation.apply(x, self.derived(), bias)

    def derive(self) -> Tensor:
        return self.to_dense()


class Dense(Leaf):
    """The matrix itself.

    Args:
        weight: shape (out, in), any floating dtype.

    Raises:
        ValueError: something else.
    """

    def __init__(self, weight: Tensor, notes: tuple[str, ...] = ()) -> None:
        if weight.ndim != 2:
            raise ValueError(
                f"a dense factorization needs a matrix, not shape {tuple(weight.shape)}"
            )
        check_floating("the weight of a dense factorization", weight)
        super().__init__((weight.shape[0], weight.shape[1]), notes)
        self.weight = nn.Parameter(with_plain_strides(weight.detach()))

    def to_dense(self) -> Tensor:
        return self.weight

    def derived(self) -> Tensor:
        return self.weight

    @property
    def params(self) -> int:
        return self.weight.numel()

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return function(self)

    def config(self) -> dict[str, Any]:
        return {"type": "Dense", "shape": list(self.shape), "dtype": dtype_name(self.weight.dtype)}

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        return cls(torch.empty(shape_in(config), dtype=dtype_in(config, "dtype")))

    def describe(self) -> str:
        return f"Dense {self.shape[1]}→{self.shape[0]}"


def check_forms(name: str, forms: Iterable[object]) -> None:
    """Raise ValueError unless all are factorizations."""
    for form in forms:
        if not isinstance(form, Factorization):
            raise ValueError(
                f"{name} must be a factorization, not {type(form).__name__}: a matrix is one as "
                "Dense(matrix)"
            )


def with_plain_strides(tensor: Tensor) -> Tensor:
    """The tensor, copied unless its strides are those of a new tensor of its shape.

    A dimension of size 1 may have any stride and still count as contiguous; BLAS chooses by it, so
    that the same numbers, saved and loaded, could give other last digits.
    """
    if tensor.stride() == torch.empty(tensor.shape, device="meta").stride():
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
