"""The dtype in which real values of compressed weights are stored, and what is stored once."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from lowrank.decomposers.half_precision import HalfPrecision
from lowrank.factorizations import Dense, Factorization, adapters
from lowrank.numerics.memo import fingerprint

SHARED = "shares frozen factors of its adapter with layers before it, counted once"


class Values:
    """The dtype of stored factors and kept weights of one model.

    Frozen factors of adapters that have equal numbers, such as those of VeRA, are one tensor in all
    of its layers.

    Args:
        dtype: ``"float16"`` or ``"bfloat16"``; None for the model's own.

    Raises:
        ValueError: another dtype.
    """

    def __init__(self, dtype: str | None = None) -> None:
        self.dtype = dtype
        self._half = None if dtype is None else HalfPrecision(dtype)  # type: ignore[arg-type]
        # A factor that several layers share is stored once.
        self._stored: WeakKeyDictionary[Dense, Factorization] = WeakKeyDictionary()
        self._frozen: dict[str, Dense] = {}

    def __repr__(self) -> str:
        return f"Values({self.dtype!r})"

    def itemsize(self, dtype: torch.dtype) -> int:
        """Bytes of a value of a weight of that dtype."""
        return 2 if self.dtype is not None else dtype.itemsize

    def stored(self, form: Factorization) -> Factorization:
        """A form with its dense leaves as they are stored; what an adapter trains stays.

        Raises:
            ValueError: numbers that the dtype does not hold.
        """
        added = {id(leaf) for part in adapters(form) for leaf in part.modules()}
        if added:
            form = self._shared(form, added)
        half = self._half
        if half is None:
            return form

        def convert(leaf: Dense) -> Factorization:
            if id(leaf) in added and leaf.weight.requires_grad:
                return leaf
            if leaf not in self._stored:
                stored = half.decompose(leaf.weight)
                stored.notes = leaf.notes
                self._stored[leaf] = stored
            return self._stored[leaf]

        return form.map_dense(convert)

    def _shared(self, form: Factorization, added: set[int]) -> Factorization:
        """A form in which frozen leaves of adapters are those of equal numbers of other forms.

        Args:
            added: the leaves of its adapters, by `id`.
        """
        notes: tuple[str, ...] = ()

        def once(leaf: Dense) -> Factorization:
            nonlocal notes
            if id(leaf) not in added or leaf.weight.requires_grad:
                return leaf
            known = self._frozen.setdefault(fingerprint(leaf.weight), leaf)
            notes = notes if known is leaf else (SHARED,)
            return known

        shared = form.map_dense(once)
        shared.notes += notes
        return shared
