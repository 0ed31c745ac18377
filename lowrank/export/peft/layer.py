"""One adapted layer as PEFT has it: the change of the base's weight as two factors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lowrank.approximation.products import truncated_product
from lowrank.export.peft.kinds import LENGTHS, Kind, kind_of
from lowrank.factorizations import Dense, Factorization
from lowrank.factorizations.adapted import LowRankTerm, joined, low_rank, taken_apart
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.layers import Rule, rule_for
from lowrank.norms import IDENTITY

# Random vectors beyond the rank that is looked for.
EXTRA = 8


@dataclass(frozen=True)
class AdaptedLayer:
    """An adapted layer, and what PEFT's folder says of it.

    Attributes:
        name: of the layer in the model.
        module: the layer of the dense base.
        term: base + term is the layer's weight.
        base: the matrix of the base, (out, in): that of `module`, or another one.
        is_own: whether it is another one, which has to be written with the adapter.
        lengths: (out,) those of the rows of the weight, if they are trained apart (DoRA).
        notes: what a reader of the report should know.
    """

    name: str
    module: nn.Module
    kind: Kind
    term: LowRankTerm
    base: Tensor
    is_own: bool
    lengths: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        """As PEFT counts it."""
        return self.term.rank * self.kind.times(self.module)

    def alpha(self, rslora: bool) -> float:
        """The alpha whose quotient by the rank, or by its root, is the scale of the term."""
        share = math.sqrt(self.rank) if rslora else self.rank
        exact = self.term.scale * share
        beside = [math.nextafter(exact, end) for end in (-math.inf, math.inf)]
        near = [float(round(exact)), exact, *beside]
        found = next((alpha for alpha in near if alpha / share == self.term.scale), exact)
        return int(found) if found == int(found) else found

    def tensors(self) -> dict[str, Tensor]:
        """What the file holds, by the end of its name."""
        tensors = self.kind.tensors(self.module, self.term.left, self.term.right)
        if self.lengths is not None:
            tensors[LENGTHS] = self.kind.lengths(self.module, self.lengths)
        return tensors


def adapted_layer(name: str, layer: FactorizedLayer, module: nn.Module) -> AdaptedLayer:
    """What a folder says of one adapted layer.

    Args:
        module: the layer of the dense base.

    Raises:
        ValueError: it has no place there; the text says why.
    """
    rule = rule_for(module)
    if rule is None:
        raise ValueError(f"it is a {type(module).__name__} in the base, which holds no such weight")
    kind = kind_of(module, rule)
    parts = taken_apart(layer.factorization)
    if parts.lengths is not None:
        check_lengths(kind, module, layer)
    with torch.no_grad():
        matrix = parts.base.to_dense().detach()
    term = within_sides(low_rank(parts.terms))
    found = AdaptedLayer(name, module, kind, term, matrix, True, parts.lengths)
    return _over(found, parts.base, rule)


def check_lengths(kind: Kind, module: nn.Module, layer: FactorizedLayer) -> None:
    """Raise ValueError where PEFT's DoRA would not do with the rows what is done here."""
    refused = kind.lengths_refusal(module)
    with torch.no_grad():
        if not refused and bool((layer.factorization.to_dense() == 0).all(dim=1).any()):
            refused = "it divides by the length of a row of zeros"
    if refused:
        raise ValueError(f"PEFT's DoRA would compute something else: {refused}")


def within_sides(term: LowRankTerm) -> LowRankTerm:
    """The same product, its rank no larger than its sides."""
    most = min(len(term.left), term.right.shape[1])
    if term.rank <= most:
        return term
    left, right, _ = truncated_product(term.left, term.right, most, IDENTITY)
    return replace(term, left=left.to(term.left), right=right.to(term.right))


def _over(layer: AdaptedLayer, form: Factorization, rule: Rule) -> AdaptedLayer:
    """The layer over the weight of the given base, if it differs by no more than a low rank.

    Args:
        form: of its own base.
    """
    weight = rule.matrix(layer.module, "channel").detach()
    if weight.shape != layer.base.shape or weight.dtype != layer.base.dtype:
        raise ValueError(
            f"its weight is {tuple(layer.base.shape)} {layer.base.dtype}, and that of the base "
            f"{tuple(weight.shape)} {weight.dtype}: give the base that it was adapted from"
        )
    own = layer.base.to(weight.device)
    for matrix in (weight, own, layer.term.left, layer.term.right):
        if not bool(matrix.isfinite().all()):
            raise ValueError("it has numbers that are not finite")
    if torch.equal(weight, own):
        return replace(layer, base=weight, is_own=False)
    change = low_rank_difference(own, weight, layer.term.rank)
    if change is None:
        # What stands for a weight is nearer to it than zero is.
        is_other = torch.linalg.matrix_norm(own - weight) >= torch.linalg.matrix_norm(weight)
        if isinstance(form, Dense) or bool(is_other):
            raise ValueError(
                "its frozen weight is another one than that of the base, and stands for no such: "
                "give the base that it was adapted from"
            )
        return layer
    notes: tuple[str, ...] = ("the base is that of before up to rounding",)
    term = layer.term
    if change.rank:
        notes = (f"rank {change.rank} of it is the part that was taken out of the base's weight",)
        left, right = (matrix.to(term.left) for matrix in (change.left, change.right))
        change = LowRankTerm(left, right, dropout=term.dropout)
        term = within_sides(joined([term, change]))
    return replace(layer, base=weight, is_own=False, term=term, notes=notes)


def low_rank_difference(matrix: Tensor, weight: Tensor, rank: int) -> LowRankTerm | None:
    """The term of at most that rank with weight + term = matrix, up to the rounding of both.

    By the range of the difference on random vectors (Halko, Martinsson & Tropp, SIAM Review 53(2),
    2011, algorithm 4.1), which of such a matrix is all but rounding errors.

    Returns:
        None if they differ by more.
    """
    difference = matrix.double() - weight.double()
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(weight.shape[1], rank + EXTRA, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(difference @ random.to(difference)).Q
    inner = basis.T @ difference
    largest = float(torch.maximum(matrix.abs().max(), weight.abs().max()))
    unit = torch.finfo(weight.dtype).eps * largest
    rest = torch.linalg.vector_norm(difference - basis @ inner)
    u, s, vh = torch.linalg.svd(inner, full_matrices=False)
    # The largest singular value of a matrix of random numbers of that size.
    found = int((s > unit * sum(map(math.sqrt, weight.shape))).sum())
    if float(rest) > unit * math.sqrt(weight.numel()) or found > rank:
        return None
    root = s[:found].sqrt()
    left, right = basis @ u[:, :found] * root, root[:, None] * vh[:found]
    return LowRankTerm(left.to(weight), right.to(weight))
