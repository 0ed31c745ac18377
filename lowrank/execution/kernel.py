"""The interface of kernels: ways to run a factorization, each with an accuracy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from lowrank.factorizations import Factorization, Leaf
from lowrank.factorizations.operations import Multiply, Operation

Run = Callable[[Tensor], Tensor]
Accuracy = Literal["exact", "bfloat16", "int8"]
# From the strictest to the loosest; a limit of one also allows those before it.
ACCURACIES: tuple[Accuracy, ...] = ("exact", "bfloat16", "int8")
# What a kernel is chosen for.
Goal = Literal["speed", "memory"]


@dataclass(frozen=True)
class Work:
    """The work of a kernel: one factorization, applied by one operation, with its bias.

    Args:
        x: inputs like those to come: their shape, dtype and device decide what can run and how fast
            it is.
    """

    factorization: Factorization
    operation: Operation
    bias: Tensor | None
    x: Tensor

    def native(self, x: Tensor) -> Tensor:
        """As the factorization runs itself."""
        return self.factorization(x, self.operation, self.bias)

    @property
    def multiplies(self) -> bool:
        """Whether it is a plain product with x, as in a linear layer."""
        return self.operation == Multiply()

    @property
    def leaf(self) -> Leaf | None:
        """The factorization if it is a leaf."""
        return self.factorization if isinstance(self.factorization, Leaf) else None

    def matrix(self) -> Tensor:
        """The factorization as one matrix; the cached one if a leaf keeps it."""
        leaf = self.leaf
        with torch.inference_mode(False), torch.no_grad():
            return (leaf.derived() if leaf else self.factorization.to_dense()).detach()

    def stored(self) -> list[Tensor]:
        """The tensors that the factorization stores."""
        return [*self.factorization.parameters(), *self.factorization.buffers()]

    def extra_bytes(self, *tensors: Tensor) -> int:
        """Bytes of those tensors whose memory is not that of the stored factorization."""
        own = {tensor.untyped_storage().data_ptr() for tensor in self.stored()}
        return sum(t.nbytes for t in tensors if t.untyped_storage().data_ptr() not in own)


@dataclass(frozen=True)
class Prepared:
    """A kernel ready to run.

    Attributes:
        run: x → the outputs, bias added.
        packed_bytes: what it holds in memory besides what the factorization stores.
        made_bytes: the largest part of the matrix that it makes anew in every pass.
        read_bytes: the weights, in the form in which every pass reads them; None if not known.
    """

    run: Run
    packed_bytes: int
    made_bytes: int = 0
    read_bytes: int | None = None


class Kernel(ABC):
    """One way to run a factorization. A new one is a new class, handed to `Search(kernels=…)`.

    Laws: where `refusal` is empty, `prepare(work).run(x)` is `work.native(x)` for inputs of any
    batch shape up to `bound`, in x's dtype and contiguous; the factorization is not changed.

    Attributes:
        name: of the kernel in plans and records.
        accuracy: ``exact`` (equal up to rounding in the layer's own dtype), ``bfloat16`` (inputs
            and weights rounded to bfloat16, or products accumulated in it) or ``int8`` (inputs and
            weights rounded to 8-bit integers).
    """

    name: ClassVar[str]
    accuracy: ClassVar[Accuracy] = "exact"

    @abstractmethod
    def refusal(self, work: Work) -> str:
        """Why it cannot do this work here; empty if it can."""

    @abstractmethod
    def prepare(self, work: Work) -> Prepared:
        """Pack what it needs."""


def bound(accuracy: Accuracy, dtype: torch.dtype) -> float:
    """The largest relative error of outputs (Frobenius) that counts as this accuracy.

    ``exact`` allows sums in another order: ε^¾ of the dtype, 6e-6 in float32. The others allow the
    rounding errors of inputs without outliers, with room for several factors of a product; inputs
    with outliers can exceed them, and the kernel is then not taken.
    """
    exact = torch.finfo(dtype).eps ** 0.75
    return max(exact, {"exact": 0.0, "bfloat16": 0.02, "int8": 0.05}[accuracy])


def allowed(accuracy: Accuracy, limit: Accuracy) -> bool:
    """Whether a limit of `limit` allows `accuracy`."""
    return ACCURACIES.index(accuracy) <= ACCURACIES.index(limit)


def check_accuracy(accuracy: str) -> Accuracy:
    """Raise ValueError unless there is such an accuracy."""
    if accuracy not in ACCURACIES:
        raise ValueError(
            f"accuracy={accuracy!r} does not exist: give 'exact' (equal up to rounding), "
            "'bfloat16' or 'int8', each of which allows those before it"
        )
    return cast(Accuracy, accuracy)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ (Frobenius); 0 where both are 0, infinite if not finite."""
    expected = expected.double()
    difference = torch.linalg.vector_norm(found.double() - expected)
    scale = torch.linalg.vector_norm(expected)
    error = float(difference / scale) if scale > 0 else float(difference > 0)
    return error if error == error else float("inf")


def on_rows(run: Run) -> Run:
    """`run` for x of shape (rows, in), as a run for x of shape (…, in)."""

    def flattened(x: Tensor) -> Tensor:
        if x.ndim == 2:
            return run(x)
        y = run(x.reshape(-1, x.shape[-1]))
        return y.view(*x.shape[:-1], y.shape[-1])

    return flattened
