"""Memoisation of expensive kernels by the content of their matrices.

A sweep over 32 ranks calls `svd(weight)` 32 times with the same numbers; only the first call
computes it. The key is the content and not the object, because each point of a sweep has its own
copy of a weight.

The outputs of a model depend not only on its weights but also on its code, its plain attributes and
its hooks, which no key can contain. They are kept only for a model whose owner promises by
`unchanging` that these do not change.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
import xxhash
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# The keys of results first computed inside each `Memo.passing` that a thread is in.
_PASSING: ContextVar[tuple[set[Any], ...]] = ContextVar("passing", default=())


class Shelf(Protocol):
    """A store of results beyond this process; see `lowrank.kernel_cache`."""

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The kept result of `key`, or that of `compute()`."""


@dataclass
class Memo:
    """A store of kernel results that forgets the least recently used beyond `limit_bytes`.

    Threads may share it; two that ask for the same at the same time both compute it.
    """

    limit_bytes: int = 4 << 30
    hits: int = 0
    misses: int = 0
    shelf: Shelf | None = None
    _store: OrderedDict[tuple[Any, ...], tuple[int, Any]] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def get(self, key: tuple[Any, ...] | None, compute: Callable[[], Any]) -> Any:
        """The kept result of `key`, or that of `compute()`, now kept; of None nothing is kept."""
        if key is None:
            return compute()
        with self._lock:
            if key in self._store:
                self.hits += 1
                self._store.move_to_end(key)
                return self._store[key][1]
            self.misses += 1
        result = compute()
        size = _nbytes(result)
        with self._lock:
            self._drop(key)
            self._store[key] = (size, result)
            self._bytes += size
            for keys in _PASSING.get():
                keys.add(key)
            while self._bytes > self.limit_bytes and self._store:
                _, (dropped, _) = self._store.popitem(last=False)
                self._bytes -= dropped
        return result

    def shelved(self, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """The result of `key` from the shelf, or that of `compute()`; inside `passing`, the latter.

        Args:
            key: plain values, which mean the same in other processes. What the last bits of a
                result depend on besides is added here.
        """
        if self.shelf is None or _PASSING.get():
            return compute()
        state = (torch.get_num_threads(), torch.get_float32_matmul_precision())
        return self.shelf.get(repr((*state, *key)), compute)

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Forget at the end the results first computed inside, whose keys can never occur again.

        Those of threads that were started inside with a copy of the context count, too.
        """
        own: set[Any] = set()
        _PASSING.set((*_PASSING.get(), own))
        try:
            yield
        finally:
            # Not by a token, since a generator may leave after what it entered later.
            _PASSING.set(tuple(keys for keys in _PASSING.get() if keys is not own))
            with self._lock:
                for key in own:
                    self._drop(key)

    def forget(self, part: object) -> None:
        """Forget all results that have this as a part of their keys."""
        with self._lock:
            for key in [key for key in self._store if any(own is part for own in key)]:
                self._drop(key)

    def clear(self) -> None:
        """Forget every result and count."""
        with self._lock:
            self._store.clear()
            self._bytes = self.hits = self.misses = 0

    def _drop(self, key: tuple[Any, ...]) -> None:
        if key in self._store:
            self._bytes -= self._store.pop(key)[0]


MEMO = Memo()


def fingerprint(tensor: Tensor) -> str:
    """A 128-bit hash of a tensor's numbers, shape, dtype and device."""
    data = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().data
    return f"{tensor.dtype}{tuple(tensor.shape)}{tensor.device}{xxhash.xxh3_128_hexdigest(data)}"


def memoised(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the results of `kernel(*tensors, **options)` by the content of its tensors.

    Callers share the results and must not change them.
    """

    @functools.wraps(kernel)
    def wrapper(*tensors: Tensor, **options: Any) -> Any:
        name = f"{kernel.__module__}.{kernel.__qualname__}"
        key = (name, *map(fingerprint, tensors), *sorted(options.items()))

        def compute() -> Any:
            return kernel(*tensors, **options)

        # Nobody knows when the code of others changes.
        is_own = kernel.__module__.startswith("lowrank.")
        return MEMO.get(key, lambda: MEMO.shelved(key, compute) if is_own else compute())

    return wrapper


@dataclass(frozen=True, eq=False)
class Promise:
    """The token of a model of `unchanging`, which stands for it in keys.

    Attributes:
        identity: the same text in other processes where the code, attributes and hooks of the model
            are the same; None if nobody knows.
    """

    identity: str | None = None


# The models with the promise of `unchanging`.
_PROMISED: WeakKeyDictionary[nn.Module, Promise] = WeakKeyDictionary()


def unchanging(model: nn.Module, identity: str | None = None) -> nn.Module:
    """Promise that a model does not change, so that results of running it are computed once.

    The promise: from now on the code of its modules, their plain attributes and their hooks do not
    change, nor does the code of the task that it runs on. Weights, buffers and data may change,
    because they are part of the key. The promise holds for this object and not for its copies.

    Args:
        identity: what tells the model's code and attributes apart in all processes; with it, its
            statistics may be kept by `lowrank.kernel_cache`.

    Returns:
        The model itself.
    """
    _PROMISED.setdefault(model, Promise(identity))
    return model


def model_key(model: nn.Module) -> tuple[Any, ...] | None:
    """The part of a key of `Memo` for a model; None without the promise of `unchanging`."""
    token = _PROMISED.get(model)
    return None if token is None else (token, model_fingerprint(model))


def unchanging_meanwhile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep results of running the model, the first argument, until the call ends."""

    @functools.wraps(function)
    def wrapper(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(model, nn.Module) or model in _PROMISED:
            return function(model, *args, **kwargs)
        unchanging(model)
        try:
            return function(model, *args, **kwargs)
        finally:
            MEMO.forget(_PROMISED.pop(model))

    return wrapper


def model_fingerprint(
    model: nn.Module, numbers: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor
) -> str:
    """A hash of all numbers of a model, of their names and ties, and of its modules as printed.

    Buffers that are not saved count, such as the frequencies of positions; code and settings that
    no module prints do not.

    Args:
        numbers: gives those of a tensor, by its name, where the model is without them.
    """
    digest = xxhash.xxh3_128(repr(model).encode())
    first: dict[int, str] = {}
    parameters = model.named_parameters(remove_duplicate=False)
    for name, tensor in chain(parameters, model.named_buffers(remove_duplicate=False)):
        same = first.setdefault(id(tensor), name)
        own = fingerprint(numbers(name, tensor)) if same == name else same
        digest.update(f"{name} {own} ".encode())
    return digest.hexdigest()


@memoised
def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u (out, k), s (k,), vh (k, in) with k = min(out, in), s descending."""
    return torch.linalg.svd(matrix, full_matrices=False)


def _nbytes(result: Any) -> int:
    """Bytes that keeping a result takes; what its tensors share counts once."""
    leaves = tree_leaves(result)
    modules = [leaf for leaf in leaves if isinstance(leaf, nn.Module)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    tensors += [t for m in modules for t in (*m.parameters(), *m.buffers())]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()) or 64
