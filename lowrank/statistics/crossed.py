"""The error of a mean over examples and seeds, where every seed saw every example.

The number of an example and a seed is μ + e + s + r: a part of the example, a part of the seed, and
a part of the two together. The mean over n examples and m seeds then has the variance
σ²(e)/n + σ²(s)/m + σ²(r)/nm. The means of the examples vary by the first and third term, those of
the seeds by the second and third; so their sum counts the third twice, and a bootstrap that draws
examples and seeds anew counts it three times (McCullagh, Bernoulli 6(2), 2000; Owen, The Annals of
Applied Statistics 1(2), 2007). Here it is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowrank.statistics.student import satterthwaite

# What is left of a difference of two parts below this share of one of them is rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class CrossedVariance:
    """The parts of the variance of a mean over examples and seeds, and their sum.

    Attributes:
        examples: of the means of the examples, σ²(e)/n + σ²(r)/nm.
        seeds: of the means of the seeds, σ²(s)/m + σ²(r)/nm.
        both: what is in the two, σ²(r)/nm.
        number: of seeds.
    """

    examples: float
    seeds: float
    both: float
    number: int

    @property
    def total(self) -> float:
        """The variance of the mean.

        That of the means of the seeds, and what examples add. That is not below 0, so the interval
        is never shorter than that of the means of the seeds alone. It is 0 where these are all
        alike, even if other examples make each of them.
        """
        return self.seeds + self._added

    @property
    def between(self) -> float:
        """The part that more examples would leave, σ²(s)/m; 0 where it cannot be seen."""
        return max(0.0, self.seeds - self.both)

    def degrees(self, of_examples: float) -> float:
        """The degrees of freedom of the sum, about; 0 where nothing varies.

        What examples add is a difference of two mean squares and is taken as one, which gives too
        many where they are about alike.

        Args:
            of_examples: those of the means of the examples, n − 1 where all count alike.
        """
        return satterthwaite((self.seeds, self.number - 1), (self._added, of_examples))

    @property
    def _added(self) -> float:
        added = self.examples - self.both
        return added if added > ROUNDING * self.examples else 0.0


def crossed_variance(influence: np.ndarray, values: np.ndarray) -> CrossedVariance:
    """The variance of the mean of `values` for other examples and other seeds.

    Args:
        influence: of each example on the value of each seed, shape (n, seeds); see
            `lowrank.statistics.means.influences`. An example that a seed did not see has 0: where
            no two seeds share one, what is left is the variance of the means of the seeds.
        values: of the seeds, shape (seeds,), two or more.

    Source: Searle, Casella & McCulloch, Variance Components, 1992, chapter 4 (two-way crossed
    classification); Cameron, Gelbach & Miller, Journal of Business & Economic Statistics 29(2),
    2011 (the same sum for influences).
    """
    n, seeds = influence.shape
    of_example = influence.mean(axis=1)
    apart = influence - of_example[:, None]
    growth = n / (n - 1) if n > 1 else float("nan")
    return CrossedVariance(
        examples=growth * float(np.square(of_example).sum()),
        seeds=float(values.var(ddof=1)) / seeds,
        both=growth * float(np.square(apart).sum()) / (seeds * (seeds - 1)),
        number=seeds,
    )
