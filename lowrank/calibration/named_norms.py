"""Norms by a word, and the most that a method knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from lowrank.calibration.calibrated_norms import CalibratedNorms
from lowrank.calibration.provider import IdentityNorms, NormProvider
from lowrank.norms import Norm
from lowrank.numerics.checks import check_one_of


def norm_named(word: str) -> NormProvider:
    """The norms with a name: ``identity``, ``diagonal``, ``full`` or ``fisher``, with the defaults
    of `CalibratedNorms`.

    Raises:
        ValueError: another name.
    """
    check_one_of("norm", word, ("identity", "diagonal", "full", "fisher"))
    return IdentityNorms() if word == "identity" else CalibratedNorms(cast(Any, word))


def best_norm(check: Callable[[tuple[type[Norm], ...]], None]) -> NormProvider:
    """The most informative norms in which a method can approximate: ``full``, else ``diagonal``,
    else the identity.

    Args:
        check: raises ValueError for classes of norms that the method does not support, like
            `check_norms` of a decomposer or an allocation.
    """
    for norms in (CalibratedNorms("full"), CalibratedNorms("diagonal")):
        try:
            check(norms.types)
        except ValueError:
            continue
        return norms
    return IdentityNorms()
