"""Networks as if trained."""

import torch
from torch import nn


@torch.no_grad()
def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with all that is trainable moved a little, in place."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model
