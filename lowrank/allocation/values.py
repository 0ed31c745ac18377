"""The dtype in which the real values of a compressed weight are stored."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from lowrank.decomposers.half_precision import HalfPrecision
from lowrank.factorizations import Dense, Factorization, Scaled


class Values:
    """The dtype of stored factors and kept weights.

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

    def __repr__(self) -> str:
        return f"Values({self.dtype!r})"

    def itemsize(self, dtype: torch.dtype) -> int:
        """Bytes of a value of a weight of that dtype."""
        return 2 if self.dtype is not None else dtype.itemsize

    def stored(self, form: Factorization) -> Factorization:
        """A form with its dense leaves as they are stored; adapters, which are trained, stay.

        Raises:
            ValueError: numbers that the dtype does not hold.
        """
        half = self._half
        if half is None:
            return form
        trained = {
            id(leaf)
            for branch in form.modules()
            if isinstance(branch, Scaled)
            for leaf in branch.modules()
        }

        def convert(leaf: Dense) -> Factorization:
            if id(leaf) in trained:
                return leaf
            if leaf not in self._stored:
                stored = half.decompose(leaf.weight)
                stored.notes = leaf.notes
                self._stored[leaf] = stored
            return self._stored[leaf]

        return form.map_dense(convert)
