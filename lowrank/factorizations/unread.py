"""A weight that is multiplied out only where something is computed with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

from torch import Tensor
from torch.utils._pytree import tree_map_only

from lowrank.factorizations.factorization import Factorization, Leaf

# What a tensor can be asked without its numbers.
ASKED: frozenset[Any] = frozenset(
    {
        *(getattr(Tensor, name).__get__ for name in ("dtype", "device", "shape", "ndim", "layout")),
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point),
    }
)


class Unread(Tensor):
    """The matrix of factors, which stay factors as long as only its dtype or the like is asked.

    Much code asks the weight of a layer for its dtype or device at each call of the layer.
    Multiplying the factors out for that would cost more than the dense layer does.
    """

    _multiply: Callable[[], Tensor]

    @classmethod
    def of(cls, form: Factorization, finish: Callable[[Tensor], Tensor], shape: Any) -> Self:
        """`finish(form.to_dense())`, of that shape."""
        leaf = next(module for module in form.modules() if isinstance(module, Leaf)).materialize()
        unread = Tensor._make_wrapper_subclass(cls, shape, dtype=leaf.dtype, device=leaf.device)  # type: ignore[attr-defined]
        unread._multiply = lambda: finish(form.to_dense())
        return unread

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in ASKED:
            return super().__torch_function__(func, types, args, kwargs or {})
        args, kwargs = tree_map_only(Unread, lambda w: w._multiply(), (args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Where `__torch_function__` is turned off."""
        args, kwargs = tree_map_only(Unread, lambda w: w._multiply(), (args, kwargs or {}))
        return func(*args, **kwargs)
