"""Fisher information of the rows and columns of weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lowrank.calibration.data import CalibrationData
from lowrank.calibration.gradients import UNUSED, gradients
from lowrank.calibration.statistics import Statistics
from lowrank.model.sites import Site


def fisher(
    model: nn.Module, sites: Mapping[str, Site], data: CalibrationData
) -> dict[str, Statistics]:
    """The empirical Fisher information of weights, summed over rows and over columns.

    F_ij is the mean over batches of (∂loss/∂w_ij)², with `gradients`. With one example per batch F
    is the empirical Fisher information; with more examples per batch their gradients may cancel.

    Returns:
        Statistics by name: `columns` Σ_i F_ij (in,) and `rows` Σ_j F_ij (out,) in the view
        ``channel``. A weight on which the loss does not depend has a count of 0 and a note that
        says so.

    Raises:
        ValueError: as `gradients`.

    Source: Hsu et al., ICLR 2022 (FWSVD), section 4.
    """
    squares: dict[str, tuple[Tensor, Tensor]] = {}
    batches = 0
    for of_batch in gradients(model, sites, data):
        batches += 1
        for name, gradient in of_batch.items():
            use = sites[name].uses[0]
            matrix = use.rule.as_matrix(use.module, gradient, "channel")
            _add(squares, name, matrix.double().square())
    unused = Statistics(None, None, 0, (UNUSED,))
    found = {name: _mean(sums, batches) for name, sums in squares.items()}
    return {name: found.get(name, unused) for name in sites}


def _mean(sums: tuple[Tensor, Tensor], batches: int) -> Statistics:
    columns, rows = sums
    return Statistics(columns / batches, rows / batches, batches)


def _add(squares: dict[str, tuple[Tensor, Tensor]], name: str, square: Tensor) -> None:
    columns, rows = squares.get(name, (0, 0))
    squares[name] = columns + square.sum(dim=0), rows + square.sum(dim=1)
