"""Detection of weights that are multiples of one step, such as those of a quantized matrix."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

# The relative distance up to which a weight counts as a multiple: some roundings of float32.
ROUNDINGS = 2.0**-20
# The first SOME weights contain all distinct values if there are fewer than FEW_VALUES.
SOME, FEW_VALUES = 2**12, 2**8


def as_multiples(weight: Tensor, reach: int) -> Iterator[tuple[Tensor, float, int]]:
    """Codes, counted from a centre, with which (codes + centre) · step is the weight.

    Args:
        weight: shape (out, in), float64, not zero.
        reach: the largest code that counts, on either side of the centre.

    Yields:
        Codes (out, in), float64; the step; the centre. Nothing for weights that are no multiples.
    """
    for step in smallest_distances(weight):
        steps = weight / step
        codes = steps.round()
        if bool(((steps - codes).abs() > ROUNDINGS * codes.abs()).any()):
            continue
        for centre in {0, round(float(codes.mean()))}:
            if not is_beyond(codes - centre, reach):
                yield codes - centre, step, centre


def smallest_distances(weight: Tensor) -> list[float]:
    """Candidate steps: the smallest magnitude, and the smallest distance between neighbours."""
    sizes = weight.abs()
    smallest = float(sizes[sizes > 0].min())
    gaps = weight.flatten()[:SOME].sort().values.diff()
    gaps = gaps[gaps > ROUNDINGS * sizes.max()]
    # Among many distinct values, neighbours are rarely one step apart.
    return [smallest, float(gaps.min())] if 0 < len(gaps) < FEW_VALUES else [smallest]


def is_beyond(codes: Tensor, reach: int) -> bool:
    """Whether some codes are larger than `reach`, or NaN."""
    return not float(codes.abs().max()) <= reach
