"""What a weight becomes: the one interface of dense, sparse, quantized, product and sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lowrank.factorizations.operations import Multiply, Operation

MULTIPLY = Multiply()


class Factorization(nn.Module, ABC):
    """A linear map W of shape (out, in), held in some form.

    A subclass says how it multiplies (`forward`), what it equals (`to_dense`) and how it is
    described without its numbers (`config`). Size, parameters, MACs and error are derived from
    the leaves in `lowrank.measure`.

    Laws: `forward(x, operation) == operation.apply(x, to_dense())` up to rounding; a factorization
    rebuilt by `from_config(config())` that loads `state_dict()` gives the same outputs bit for bit;
    the bytes of `state_dict()` are all that is stored.

    Attributes:
        shape: (out, in).
        note: what a reader of the report should know, such as why a layer stayed dense.
    """

    types: ClassVar[dict[str, type[Factorization]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Factorization.types[cls.__name__] = cls

    def __init__(self, shape: tuple[int, int], note: str = "") -> None:
        super().__init__()
        self.shape = (int(shape[0]), int(shape[1]))
        self.note = note

    @abstractmethod
    def forward(self, x: Tensor, operation: Operation = MULTIPLY) -> Tensor:
        """Apply W to `x` as `operation` says; by default y = x Wᵀ, (…, in) → (…, out)."""

    @abstractmethod
    def to_dense(self) -> Tensor:
        """W as one matrix of shape (out, in); differentiable where the form can be trained."""

    @property
    @abstractmethod
    def params(self) -> int:
        """Stored learned values: non-zeros of a sparse leaf, codes of a quantized one."""

    @abstractmethod
    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        """This form with every dense leaf replaced by what `function` makes of it."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON that, with `state_dict()`, rebuilds this factorization."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A factorization of this form with its tensors not yet filled."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people, such as ``LowRank 512→32→256``."""

    def __repr__(self) -> str:
        return self.describe()


def rebuild(config: dict[str, Any]) -> Factorization:
    """The factorization that `config` describes, its tensors not yet filled.

    Raises:
        ValueError: `config` names a type that is not loaded.
    """
    try:
        cls = Factorization.types[config["type"]]
    except KeyError:
        raise ValueError(
            f"factorization type {config.get('type')!r} is not known; known are "
            f"{sorted(Factorization.types)}. Import the module that defines it before loading."
        ) from None
    return cls.from_config(config)


class Leaf(Factorization):
    """A factorization that is applied as one dense matrix.

    Where nothing is to be trained, the matrix is made once and kept until a tensor changes, so a
    sparse or quantized layer runs at the speed of a dense one, not slower.
    """

    def __init__(self, shape: tuple[int, int], note: str = "") -> None:
        super().__init__(shape, note)
        self._materialized: tuple[tuple[Any, ...], Tensor, list[Tensor]] | None = None

    @property
    def density(self) -> float:
        """Share of the entries that a kernel exploiting zeros would multiply."""
        return self.params / (self.shape[0] * self.shape[1])

    def forward(self, x: Tensor, operation: Operation = MULTIPLY) -> Tensor:
        return operation.apply(x, self.materialize())

    def materialize(self) -> Tensor:
        """`to_dense()`, kept between calls while no tensor of this leaf changes."""
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            return self.to_dense()
        tensors = [*self.parameters(), *self.buffers()]
        key = tuple((t.data_ptr(), t._version, t.dtype, t.device) for t in tensors)
        if self._materialized is None or self._materialized[0] != key:
            # Not an inference tensor: it may be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                # The memory behind the key is held, so that no other tensor can get its address.
                self._materialized = (key, self.to_dense(), [t.detach() for t in tensors])
        return self._materialized[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_materialized": None}


class Dense(Leaf):
    """The matrix itself.

    Args:
        weight: shape (out, in), any floating dtype.
    """

    def __init__(self, weight: Tensor, note: str = "") -> None:
        if weight.ndim != 2:
            raise ValueError(
                f"a dense factorization needs a matrix, not shape {tuple(weight.shape)}"
            )
        super().__init__((weight.shape[0], weight.shape[1]), note)
        self.weight = nn.Parameter(weight.detach().contiguous())

    def to_dense(self) -> Tensor:
        return self.weight

    def materialize(self) -> Tensor:
        return self.weight

    @property
    def params(self) -> int:
        return self.weight.numel()

    def map_dense(self, function: Callable[[Dense], Factorization]) -> Factorization:
        return function(self)

    def config(self) -> dict[str, Any]:
        return {"type": "Dense", "shape": list(self.shape), "dtype": dtype_name(self.weight.dtype)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(torch.empty(config["shape"], dtype=getattr(torch, config["dtype"])))

    def describe(self) -> str:
        return f"Dense {self.shape[1]}→{self.shape[0]}"


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for `torch.float32`; `getattr(torch, name)` is the inverse."""
    return str(dtype).removeprefix("torch.")
