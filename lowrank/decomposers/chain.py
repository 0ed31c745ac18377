"""Chains of methods: prune then quantize, quantize the factors of an SVD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lowrank.decomposers.decomposer import Decomposer, Unfit
from lowrank.factorizations import Dense, Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.norms import Norm


@dataclass(frozen=True)
class Chain(Decomposer):
    """The first step decomposes the weight, each later one every dense leaf of what came before.

    ``Chain([MagnitudePruning(0.9), Quantization(4)])`` is a sparse matrix whose kept values are
    4-bit codes; `EntropyCoding` stores them in fewer bytes. ``Chain([TruncatedSVD(32),
    Quantization(8)])`` is a low-rank product of two quantized factors. Each step sees only the
    result of the one before, so the errors add up: a later step never repairs an earlier one.
    Quantizing the kept values gains less the sparser the matrix is: a bitmask takes 1 bit of every
    weight whatever its values take, at sparsity 0.9 more than values of 4 bits do (0.4).
    The gaps of `EntropyCoding` take about 0.5 there.

    Pruning to single weights leaves rows of different lengths (see `Sparse`): for the next step
    the values are then one row, ``"channel"`` means one scale for the whole matrix, and a note says
    so. A number as `group_size` gives more scales, each for that many consecutive values, row by
    row.

    A layer that an earlier step left dense is decomposed by the next as any dense leaf; what the
    earlier step noted about it is kept.

    Args:
        steps: the methods, first to act first; at least one. The first approximates the weight in
            `norm`, which it has to know, all later ones the leaves before them in the identity
            norm: the rows and columns of a leaf are not those of the weight. `PruneAndQuantize` and
            `QuantizedPlusLowRank` compensate the errors of all their steps in `norm`.

    Raises:
        ValueError: no step, something that is no decomposer, or the error of a step, with the
            number and name of that step.

    Source: Han, Mao & Dally, ICLR 2016 (prune, then quantize).
    """

    steps: Sequence[Decomposer]

    family: ClassVar[str] = "hybrid"
    # The first step checks the norm.
    norms: ClassVar[tuple[type[Norm], ...]] = (Norm,)

    def __post_init__(self) -> None:
        if not isinstance(self.steps, Sequence):
            raise ValueError(
                f"steps={self.steps!r} of Chain must be a sequence of decomposers, such as "
                "[MagnitudePruning(0.9), Quantization(4)]"
            )
        # Hydra hands over a list; a frozen dataclass is hashable only if its fields are.
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise ValueError("Chain needs at least 1 step, got none")
        for number, step in enumerate(self.steps, start=1):
            if not isinstance(step, Decomposer):
                raise ValueError(
                    f"step {number} of Chain must be a Decomposer, got {step!r}; give an instance "
                    "such as Quantization(bits=8); in YAML name it by its `_target_`, and call "
                    "Hydra's instantiate with _convert_='all'"
                )

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        with self._naming(0):
            self.steps[0].check_norms(types)

    def kernel_view(self) -> KernelView:
        return self.steps[0].kernel_view()

    def for_kernel(self, size: tuple[int, ...]) -> Decomposer:
        return Chain([self.steps[0].for_kernel(size), *self.steps[1:]])

    def check_shape(self, weight: Tensor) -> None:
        with self._naming(0):  # What later steps are given, the first decides.
            self.steps[0].check_shape(weight)

    def _decompose(self, weight: Tensor, norm: Norm) -> Factorization:
        with self._naming(0):
            result = self.steps[0].approximate(weight, norm)
        for index in range(1, len(self.steps)):
            result = result.map_dense(lambda leaf, index=index: self._replace(index, leaf))
        # Reports show the notes of the whole, so it collects those of its parts, each once.
        parts = [part for part in result.modules() if isinstance(part, Factorization)]
        result.notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
        return result

    def _replace(self, index: int, leaf: Dense) -> Factorization:
        with self._naming(index):
            result = self.steps[index].decompose(leaf.weight)
        result.notes = leaf.notes + result.notes
        # What an earlier step froze, such as the base under an adapter, stays frozen.
        return result if leaf.weight.requires_grad else result.requires_grad_(False)

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Put the step before the text of a ValueError."""
        step = self.steps[index]
        try:
            yield
        except ValueError as error:
            text = f"step {index + 1} of Chain, {step}: {error}"
            nearest = error.nearest if isinstance(error, Unfit) else None
            if nearest is None:
                raise ValueError(text) from error
            before, after = self.steps[:index], self.steps[index + 1 :]
            raise Unfit(text, Chain([*before, nearest, *after])) from error
