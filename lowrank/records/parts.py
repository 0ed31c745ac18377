"""Parts of the outcomes of language models: losses of groups of tokens, and continuations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

# The arrays of each, by the names of their attributes.
BREAKDOWN = ("counts", "dense", "compressed")
CONTINUATIONS = ("prompts", "same", "prefix")


@dataclass(frozen=True, eq=False)
class Breakdown:
    """The losses of a dense and of a compressed model by groups of the predictions.

    Attributes:
        title: what the labels are.
        labels: of the groups, in their order.
        counts: float64 (n, groups), the number of predictions of each example in each group.
        dense, compressed: float64 (n, groups), their mean losses; 0 where there are none.

    Raises:
        ValueError: arrays of other shapes or dtypes, or numbers that are not finite or, of counts,
            negative.
    """

    title: str
    labels: tuple[str, ...]
    counts: np.ndarray = field(repr=False)
    dense: np.ndarray = field(repr=False)
    compressed: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        for name, array in self.arrays().items():
            check_array(f"{name} of the losses by {self.title}", array, np.float64)
            if array.shape != (len(self.counts), len(self.labels)):
                raise ValueError(
                    f"outcomes: {name} of the losses by {self.title} must be (examples, "
                    f"{len(self.labels)}) and is {array.shape}"
                )
        if (self.counts < 0).any():
            raise ValueError(f"outcomes: counts of the losses by {self.title} must be from 0")

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays, by their names."""
        return {name: getattr(self, name) for name in BREAKDOWN}

    def of(self, rows: np.ndarray) -> Breakdown:
        """Those of some of the examples."""
        return replace(self, **{name: array[rows] for name, array in self.arrays().items()})


@dataclass(frozen=True, eq=False)
class Continuations:
    """How long the greedy continuations of prompts by two models are the same.

    Attributes:
        written: the number of tokens of each.
        prompts: int64 (p,), a hash of each prompt.
        same: float64 (p,), the number of equal tokens at equal places.
        prefix: float64 (p,), the number of tokens before the first that differs.

    Raises:
        ValueError: arrays of other shapes or dtypes, or numbers outside 0..written.
    """

    written: int
    prompts: np.ndarray = field(repr=False)
    same: np.ndarray = field(repr=False)
    prefix: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        for name, array in self.arrays().items():
            dtype = np.int64 if name == CONTINUATIONS[0] else np.float64
            check_array(f"{name} of continuations", array, dtype)
            if array.shape != self.prompts.shape or array.ndim != 1:
                raise ValueError(f"outcomes: {name} of continuations must be (prompts,)")
        for name in ("same", "prefix"):
            array = getattr(self, name)
            if len(array) and not (array.min() >= 0 and array.max() <= self.written):
                raise ValueError(f"outcomes: {name} of continuations must lie in 0..{self.written}")

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays, by their names."""
        return {name: getattr(self, name) for name in CONTINUATIONS}


def check_array(name: str, array: object, dtype: type) -> None:
    """Raise ValueError unless it is an array of that dtype and of finite numbers."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"outcomes: {name} must be an array, and is {type(array).__name__}")
    if array.dtype != np.dtype(dtype):
        raise ValueError(f"outcomes: {name} must be {np.dtype(dtype)} and is {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"outcomes: {name} holds numbers that are not finite")
