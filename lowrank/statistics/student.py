"""Student's t: the interval and the p-value of an estimate, from its standard error."""

from __future__ import annotations

from scipy import special

# The level of all intervals.
LEVEL = 0.95
# Beyond this many degrees of freedom Student's t is the normal law.
MANY = 1e8


def half_width(error: float, degrees: float) -> float:
    """Half the width of the 95 % interval of an estimate.

    Args:
        error: its standard error.
        degrees: of freedom of the error, above 0.
    """
    return float(special.stdtrit(degrees, (1 + LEVEL) / 2) * error)


def p_value(value: float, error: float, degrees: float) -> float:
    """The two-sided p-value of an estimate whose true value would be 0.

    Args:
        error, degrees: as of `half_width`; the error is above 0.
    """
    return float(2 * special.stdtr(degrees, -abs(value) / error))


def satterthwaite(*parts: tuple[float, float]) -> float:
    """The degrees of freedom of a sum of independent variances, about; 0 where all are 0.

    Args:
        parts: (variance, its degrees of freedom), infinite for a variance that is known.

    Returns:
        `MANY` at most.

    Source: Satterthwaite, Biometrics Bulletin 2(6), 1946.
    """
    total = sum(variance for variance, _ in parts)
    if not total > 0:
        return 0.0
    inverse = sum((variance / total) ** 2 / degrees for variance, degrees in parts if variance > 0)
    return min(MANY, 1 / inverse) if inverse > 0 else MANY
