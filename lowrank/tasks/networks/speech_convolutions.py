"""A small recogniser of speech: convolutions over frames, and scores of symbols (CTC)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SpeechConvolutions(nn.Module):
    """Scores of symbols in every fourth frame, from what is heard within about half a second.

    Frames that are padding are 0 before each convolution, so that a sound has the same scores alone
    and beside longer ones.

    Args:
        bands: of a frame.
        width: of the layers.
        symbols: the number of symbols, the blank among them.
        blocks: the number of residual layers.
        kernel: the width of the convolutions, an odd number of frames.
        dropout: the share of values that is left out in training.
    """

    def __init__(
        self,
        bands: int,
        symbols: int,
        width: int = 128,
        blocks: int = 4,
        kernel: int = 5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        around = kernel // 2
        self.first = nn.Conv1d(bands, width, kernel, stride=2, padding=around, bias=False)
        self.second = nn.Conv1d(width, width, kernel, stride=2, padding=around, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2 + blocks))
        self.blocks = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=around, bias=False) for _ in range(blocks)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, symbols)

    def forward(self, features: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (batch, ⌈frames / 4⌉, symbols) and the numbers of real ones, int64 (batch,).

        Args:
            features: (batch, frames, bands).
            real: which frames are real, bool (batch, frames).
        """
        states = features.transpose(1, 2) * real[:, None].to(features.dtype)
        for layer, norm in zip((self.first, self.second), self.norms[:2], strict=True):
            real = real[:, ::2]
            states = F.relu(norm(layer(states))) * real[:, None].to(states.dtype)
        for layer, norm in zip(self.blocks, self.norms[2:], strict=True):
            states = states + self.dropout(F.relu(norm(layer(states))))
            states = states * real[:, None].to(states.dtype)
        return self.head(states.transpose(1, 2)), real.sum(dim=1)
