"""The weight of a compressed layer as a read-only tensor, multiplied out only when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from lowrank.factorizations.factorization import Factorization, Leaf
from lowrank.factorizations.keeping import Keeping

# Attributes and functions that need no numbers of the tensor.
ASKED: frozenset[Any] = frozenset(
    {
        *(getattr(Tensor, name).__get__ for name in ("dtype", "device", "shape", "ndim")),
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point),
    }
)
LAYOUT = Tensor.layout.__get__  # type: ignore[attr-defined]
# Functions that change the tensor object or expose its memory without a change of its version.
REFUSED: frozenset[Any] = frozenset(
    {
        *(getattr(Tensor, name).__set__ for name in ("data", "grad", "requires_grad")),
        *(Tensor.requires_grad_, Tensor.retain_grad, Tensor.register_hook),
        *(Tensor.register_post_accumulate_grad_hook, Tensor.__dlpack__),
        *(Tensor.untyped_storage, Tensor.storage, Tensor._typed_storage),
    }
)
# Functions that make another tensor share the memory of their argument.
SHARING = torch.ops.aten.set_.source_Tensor


class LazyWeight(Tensor):
    """The matrix of a factorization, multiplied out only where its numbers are read.

    Much code asks the weight of a layer for its dtype or device at each call of the layer.
    Multiplying factors out for that would cost more than the dense layer does.

    It cannot be written to: no factor or code would change with it. Whatever would (an operation in
    place, an `out=`, an assignment to `data`) is a ValueError; so it is through what shares its
    memory, such as views, which are of this class too, and arrays, which numpy protects. Where the
    matrix shares the memory of a parameter, as a dense kernel does, a write counts and is allowed.
    """

    _form: Factorization
    _make: Callable[[], Tensor]

    @classmethod
    def of(
        cls, form: Factorization, finish: Callable[[Tensor], Tensor], shape: tuple[int, ...]
    ) -> Self:
        """`finish` of the matrix of `form`, of that shape."""
        leaf = next(module for module in form.modules() if isinstance(module, Leaf)).derived()
        return cls._wrap(form, lambda: finish(matrix_of(form)), leaf, shape)

    @classmethod
    def _wrap(
        cls,
        form: Factorization,
        make: Callable[[], Tensor],
        like: Tensor,
        shape: tuple[int, ...],
    ) -> Self:
        wrap = Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
        # Of this layout: else `other.data = lazy`, which calls no function here, would crash.
        options = {"dtype": like.dtype, "device": like.device, "layout": torch.sparse_coo}
        lazy = wrap(cls, shape, **options)
        lazy._form, lazy._make = form, make
        return lazy

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func == LAYOUT:
            return torch.strided
        if func in ASKED:
            return super().__torch_function__(func, types, args, kwargs or {})
        return run_on_matrices(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Where `__torch_function__` is turned off: there, no version tells of a write."""
        given = (kwargs or {}) | dict(enumerate(args))
        for place, argument in enumerate(func._schema.arguments):
            values = given.get(place, given.get(argument.name)) if argument.is_write else None
            for value in tree_leaves(values):
                if isinstance(value, LazyWeight):
                    refuse(value._form)
        return run_on_matrices(func, args, kwargs or {})

    def _use_count(self) -> NoReturn:
        # The first call of `torch.utils.swap_tensors`, whose effect the layer would not see.
        refuse(self._form)

    def _matrix(self) -> Tensor:
        # Outside inference mode, in which tensors do not count what is written to them.
        with torch.inference_mode(False), torch.set_grad_enabled(torch.is_grad_enabled()):
            matrix = self._make()
            return matrix.clone() if matrix.is_inference() else matrix


def matrix_of(form: Factorization) -> Tensor:
    """The matrix of `form`, that which a leaf keeps between calls if it does."""
    return form.derived() if isinstance(form, Leaf) else form.to_dense()


def run_on_matrices(func: Any, args: Any, kwargs: Any) -> Any:
    """Call `func` with the matrices of all lazy weights.

    Raises:
        ValueError: it wrote to one of them, or would have.
    """
    if func is Tensor.__iter__:
        return iter(args[0].unbind())
    for lazy in written_by_name(func, args, kwargs):
        if func in REFUSED or not Read(lazy._form, lazy._matrix()).is_stored():
            refuse(lazy._form)
    read: list[Read] = []

    def matrix(lazy: LazyWeight) -> Tensor:
        made = lazy._matrix()
        read.append(Read(lazy._form, made.clone() if func is SHARING else made))
        return read[-1].matrix

    on_matrices, options = tree_map_only(LazyWeight, matrix, (args, kwargs))
    lost: list[Factorization] = []
    try:
        result = func(*on_matrices, **options)
    finally:
        lost = [each.form for each in read if each.drop_if_written()]
    if lost:
        refuse(lost[0])
    return tree_map_only((Tensor, np.ndarray), lambda value: protected(value, read), result)


def written_by_name(func: Any, args: Any, kwargs: Any) -> list[LazyWeight]:
    """The lazy weights that a function writes to: `out`, and the first argument of in-place ones.

    Torch has errors of its own for some of them, where gradients are taken; ours must come first.
    """
    name = getattr(func, "__name__", "")
    first = func in REFUSED or (name.endswith("_") and not name.endswith("__"))
    written = tree_leaves((args[:1] if first else (), kwargs.get("out")))
    return [value for value in written if isinstance(value, LazyWeight)]


class Read:
    """A matrix that something is computed with, and whether that has changed it.

    Args:
        form: the factorization that it was made of.
        matrix: of it.
    """

    def __init__(self, form: Factorization, matrix: Tensor) -> None:
        self.form = form
        self.matrix = matrix
        self.version = matrix._version

    def drop_if_written(self) -> bool:
        """Whether a write was lost; no leaf then keeps the matrix that holds it."""
        if self.matrix._version == self.version or self.is_stored():
            return False
        self.form.apply(forget)
        return True

    def is_stored(self) -> bool:
        """Whether the matrix is the memory of a parameter, so that writes to it count."""
        return any(share_memory(self.matrix, tensor) for tensor in self.form.parameters())


def forget(module: torch.nn.Module) -> None:
    """Let a form derive anew what it keeps."""
    if isinstance(module, Keeping):
        module.forget()


def protected(value: Any, read: list[Read]) -> Any:
    """A result as it is; if it shares the memory of a matrix that was read, read-only."""
    for each in read:
        if isinstance(value, np.ndarray):
            if value.ctypes.data == each.matrix.data_ptr() and not each.is_stored():
                value.setflags(write=False)
        elif share_memory(value, each.matrix):
            return LazyWeight._wrap(each.form, lambda: value, value, value.shape)
    return value


def share_memory(tensor: Tensor, other: Tensor) -> bool:
    """Whether a write to one may be one to the other."""
    storages = [t.untyped_storage() for t in (tensor, other) if torch._C._has_storage(t)]
    return len(storages) == 2 and storages[0]._cdata == storages[1]._cdata


def refuse(form: Factorization) -> NoReturn:
    """Say that a write to the weight of a layer would be lost."""
    raise ValueError(
        "the weight of a compressed layer is computed from its factorization, here "
        f"{form.describe()}, and a write into it would be lost: write into the parameters "
        "and buffers of layer.factorization by operations in place (not through `.data`, which "
        "takes effect only at the next train() or eval()), take weight.clone() to change a copy, "
        "or do it before compressing"
    )
