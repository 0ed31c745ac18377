"""The expected calibration error: how far confidence is from accuracy, in bins of confidence."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from lowrank.numerics.checks import check_integer, check_one_of
from lowrank.statistics.estimates import Estimate, weighted_mean

Bins = Literal["width", "mass"]


def calibration_error(
    confidence: np.ndarray,
    right: np.ndarray,
    examples: np.ndarray,
    bins: int = 15,
    equal: Bins = "width",
) -> Estimate:
    """ECE = Σ |B| / n · |accuracy of B − mean confidence of B| over the bins B.

    It is above 0 for a calibrated model too, since each bin has few examples; and its standard
    error takes the sign of each gap as known, which is right where gaps exceed their own errors.

    Args:
        confidence: (n,), the probability of the predicted class, in [0, 1].
        right: (n,), 1 where the prediction is right, else 0.
        examples: (n,), what tells the examples apart.
        bins: how many.
        equal: ``width``: bins ((m − 1) / bins, m / bins], the first with 0; ``mass``: bins between
            quantiles of the confidences, with about as many examples in each; equal confidences
            stay together.

    Raises:
        ValueError: no example, a confidence outside [0, 1], or an option that cannot be.

    Source: Guo, Pleiss, Sun & Weinberger, ICML 2017, Eq. 3 (equal width); Nixon et al., CVPR
    Workshops 2019 (equal mass).
    """
    check_integer("bins", bins, least=1)
    check_one_of("equal", equal, get_args(Bins))
    if not len(confidence) or not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("a calibration error needs confidences in [0, 1] of at least one example")
    place = np.searchsorted(_inner_edges(confidence, bins, equal), confidence, side="left")
    gaps = confidence - right
    signs = np.sign(np.bincount(place, weights=gaps, minlength=bins))
    return weighted_mean(signs[place] * gaps, np.ones(len(gaps)), examples)


def _inner_edges(confidence: np.ndarray, bins: int, equal: Bins) -> np.ndarray:
    shares = np.arange(1, bins) / bins
    return shares if equal == "width" else np.quantile(confidence, shares)
