"""Gradients of the loss by the weights of a model, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lowrank.calibration.data import CalibrationData
from lowrank.calibration.piece import Piece, running
from lowrank.model.forward import evaluating
from lowrank.model.sites import Site

UNUSED = "the loss on the calibration data does not depend on it"


def gradients(
    model: nn.Module, sites: Mapping[str, Site], data: CalibrationData, examples: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """The gradients of each batch's loss, by name, in the layout of the weights.

    The gradient of a weight that several modules use is the sum over all of them; one on which the
    loss does not depend has none. Each batch takes one backward pass in evaluation mode, and runs
    as it is, with its padding and masks. Padding adds nothing if the masks hide it from the
    positions that the loss counts, and if the labels at padding are -100.

    Args:
        examples: of the data, from the first on and in whole batches; None for all.

    Raises:
        ValueError: the data give no loss, or the loss cannot be differentiated.
    """
    weights = [weight for site in sites.values() for weight in site.parameters]
    _check_differentiable(sites)
    frozen = [weight for weight in weights if not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            seen = 0
            for number, batch in enumerate(data.batches()):
                if examples is not None and seen >= examples:
                    return
                seen += len(batch)
                with running(Piece(batch, len(batch), number), model):
                    loss = data.loss(model, batch)
                    found = iter(torch.autograd.grad(loss, weights, allow_unused=True))
                # Parameters that share memory are one weight.
                of_site = {name: [next(found) for _ in sites[name].parameters] for name in sites}
                parts = {n: [g for g in own if g is not None] for n, own in of_site.items()}
                yield {name: torch.stack(own).sum(dim=0) for name, own in parts.items() if own}
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def _check_differentiable(sites: Mapping[str, Site]) -> None:
    fixed = [name for name, site in sites.items() if site.weight.is_inference()]
    if fixed:
        raise ValueError(
            f"layers {fixed}: their weights were made inside torch.inference_mode(), so that no "
            "loss can be differentiated by them: make or load the model outside of it"
        )
