"""Fisher information of the rows and columns of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lowrank.calibration.data import CalibrationData
from lowrank.calibration.piece import Piece, running
from lowrank.calibration.statistics import Statistics
from lowrank.model.forward import evaluating
from lowrank.model.sites import Site

UNUSED = "the loss on the calibration data does not depend on it"


def fisher(
    model: nn.Module, sites: Mapping[str, Site], data: CalibrationData
) -> dict[str, Statistics]:
    """The empirical Fisher information of weights, summed over rows and over columns.

    F_ij is the mean over batches of (∂loss/∂w_ij)²; the gradient of a weight that several modules
    use is the sum over all of them. With one example per batch F is the empirical Fisher
    information; with more examples per batch their gradients may cancel. Each batch takes one
    backward pass.

    A batch runs as it is, with its padding and masks. Padding adds nothing if the masks hide it
    from the positions that the loss counts, and if the labels at padding are -100.

    Returns:
        Statistics by name: `columns` Σ_i F_ij (in,) and `rows` Σ_j F_ij (out,) in the view
        ``channel``. A weight on which the loss does not depend has a count of 0 and a note that
        says so.

    Raises:
        ValueError: the data give no loss, or the loss cannot be differentiated.

    Source: Hsu et al., ICLR 2022 (FWSVD), section 4.
    """
    weights = [weight for site in sites.values() for weight in site.parameters]
    _check_differentiable(sites)
    frozen = [weight for weight in weights if not weight.requires_grad]
    squares: dict[str, tuple[Tensor, Tensor]] = {}
    batches = 0
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for number, batch in enumerate(data.batches()):
                batches += 1
                with running(Piece(batch, len(batch), number), model):
                    loss = data.loss(model, batch)
                    gradients = iter(torch.autograd.grad(loss, weights, allow_unused=True))
                for name, site in sites.items():
                    # Parameters that share memory are one weight; its gradient is the sum of
                    # theirs.
                    own = [next(gradients) for _ in site.parameters]
                    parts = [gradient for gradient in own if gradient is not None]
                    if parts:
                        use, total = site.uses[0], torch.stack(parts).sum(dim=0)
                        matrix = use.rule.as_matrix(use.module, total, "channel")
                        _add(squares, name, matrix.double().square())
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    unused = Statistics(None, None, 0, (UNUSED,))
    found = {name: _mean(sums, batches) for name, sums in squares.items()}
    return {name: found.get(name, unused) for name in sites}


def _check_differentiable(sites: Mapping[str, Site]) -> None:
    fixed = [name for name, site in sites.items() if site.weight.is_inference()]
    if fixed:
        raise ValueError(
            f"layers {fixed}: their weights were made inside torch.inference_mode(), so that no "
            "loss can be differentiated by them: make or load the model outside of it"
        )


def _mean(sums: tuple[Tensor, Tensor], batches: int) -> Statistics:
    columns, rows = sums
    return Statistics(columns / batches, rows / batches, batches)


def _add(squares: dict[str, tuple[Tensor, Tensor]], name: str, square: Tensor) -> None:
    columns, rows = squares.get(name, (0, 0))
    squares[name] = columns + square.sum(dim=0), rows + square.sum(dim=1)
