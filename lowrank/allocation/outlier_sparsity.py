"""Outlier-weighed sparsity (OWL): lower sparsity for layers with more outliers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lowrank.allocation.allocation import Allocation, Plan, Problem
from lowrank.allocation.makers import made_by
from lowrank.calibration import Job
from lowrank.decomposers import Decomposer
from lowrank.factorizations.operations import KernelView
from lowrank.norms import Diagonal, Full, Identity, Norm
from lowrank.numerics.checks import check_number, check_positive, check_sparsity


@dataclass(frozen=True)
class OutlierSparsity(Allocation):
    """Sparsities around a mean by the share of outliers among the scores of each layer.

    A score is |w| times the root mean square of its input, as in Wanda; an outlier is `outlier`
    times the mean score of its layer. The density of a layer is the mean density plus up to 2 ·
    `spread`, in proportion to its share of outliers, less what keeps the mean over all weights.

    Args:
        of: what makes the decomposer of a layer, called with `sparsity`; a class, or with other
            hyperparameters set, as by `functools.partial`.
        sparsity: the share of zeros in the selected layers together, in [0, 1).
        outlier: above how many times the mean a score is one, > 0 and finite.
        spread: by how much densities may differ from their middle, in [0, 1).

    Raises:
        ValueError: options outside their ranges, or `of` that makes no decomposer, or none that
            approximates in a norm of inputs; from `compress`, a spread that asks of a layer more
            than all or none of its weights.

    Source: Yin et al., ICML 2024 (OWL), eq. 1; there one share for each block, here for each
    weight matrix, and the mean is weighted by their sizes.
    """

    norms = (Diagonal, Full)

    of: Callable[..., Decomposer]
    sparsity: float
    outlier: float = 5.0
    spread: float = 0.08

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        check_positive("outlier", self.outlier)
        check_number("spread", self.spread, "lie in [0, 1)", lambda x: 0 <= x < 1)
        made = self._at(self.sparsity)
        if not any(knows(made, norm) for norm in self.norms):
            raise ValueError(
                f"of={self.of!r:.200} makes {made}, which approximates in none of the norms that "
                "outliers are told by, diagonal and full: take a method that knows one"
            )

    @property
    def family(self) -> str:
        return self._at(self.sparsity).family

    def check_norms(self, types: tuple[type[Norm], ...]) -> None:
        if Identity in types:
            raise ValueError(
                "OutlierSparsity cannot approximate in the norm Identity, which knows no inputs to "
                "tell outliers by: give `data`, and no norm or one such as norm='diagonal'"
            )
        super().check_norms(types)
        self._at(self.sparsity).check_norms(types)

    def allocate(self, problem: Problem) -> Plan:
        probe = self._at(self.sparsity)
        views: dict[str, KernelView] = {site.name: probe.kernel_view() for site in problem.sites}
        names, shares, sizes = [], [], []
        job = Job(problem.model, problem.model, problem.sites, views, problem.data)
        for site, norm in problem.norm.one_shot().over(job):
            weight = site.matrix(views[site.name])
            scores = weight.double().abs() * norm.entry_weights(weight).sqrt()
            names.append(site.name)
            shares.append(float((scores > self.outlier * scores.mean()).double().mean()))
            sizes.append(weight.numel())
        densities = self._densities(torch.tensor(shares), torch.tensor(sizes))
        for name, density in zip(names, densities, strict=True):
            if not 0 < density <= 1:
                raise ValueError(
                    f"layer '{name}': spread={self.spread} around sparsity={self.sparsity} asks "
                    f"for a density of {density:.3g}, which must lie in (0, 1]: lower the spread"
                )
        pairs = zip(names, densities, strict=True)
        made = {name: self._at(1 - density) for name, density in pairs}
        # A layer that the data do not reach has no density; it will be left as it is.
        return Plan({site.name: made.get(site.name, probe) for site in problem.sites})

    def _at(self, sparsity: float) -> Decomposer:
        """The decomposer of a layer at this number of zeros."""
        return made_by(self.of, sparsity=sparsity)

    def _densities(self, shares: torch.Tensor, sizes: torch.Tensor) -> list[float]:
        shares = shares.double()
        width = float(shares.max() - shares.min())
        places = 2 * self.spread * (shares - shares.min()) / width if width else 0 * shares
        mean = (places * sizes).sum() / sizes.sum()
        return (1 - self.sparsity + places - mean).tolist()


def knows(decomposer: Decomposer, norm: type[Norm]) -> bool:
    """Whether a method can approximate in a norm."""
    try:
        decomposer.check_norms((norm,))
    except ValueError:
        return False
    return True
