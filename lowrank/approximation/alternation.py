"""Alternation: the terms of a sum, each in turn the approximation of what the others leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lowrank.factorizations import Factorization

# The form of a term for what the others leave, (out, in); None where there is nothing to represent.
Term = Callable[[Tensor], Factorization | None]


def alternated(
    exact: Tensor, terms: Sequence[Term], iterations: int, start: Sequence[Tensor] | None = None
) -> Iterator[list[Factorization]]:
    """The terms of a sum after each pass, in which each is set anew to what `terms` make of the
    weight less all others.

    It ends early at a term with nothing to represent, with the terms of that pass before it, if
    there are any. Which pass is the nearest is for the caller to say: rounding to levels can make a
    pass worse than the one before.

    Args:
        exact: the weight, (out, in), in the dtype to compute in.
        terms: at least one.
        iterations: passes, at least 1.
        start: what each term equals before the first pass, (out, in); zero if not given.

    Source: Zhou & Tao, ICML 2011, algorithm 1; Li et al., ICLR 2024, algorithm 1.
    """
    matrices = [torch.zeros_like(exact) for _ in terms] if start is None else list(start)
    for _ in range(iterations):
        found: list[Factorization] = []
        for index, term in enumerate(terms):
            matrices[index] = torch.zeros_like(exact)
            form = term(exact - torch.stack(matrices).sum(dim=0))
            if form is None:
                if found:
                    yield found
                return
            found.append(form)
            matrices[index] = form.to_dense().detach().to(exact.dtype)
        yield found
