"""A network that classifies by texts: its features beside the embeddings of what is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.tasks.prompts import by_length
from lowrank.tasks.sentences import without_pooler

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PromptedNetwork(nn.Module):
    """Cosines between projected features of images or sounds and embeddings of texts.

    The embedding of a text is the mean of the encoder's states over its tokens. Texts of one length
    run together, so that none is padded.

    Args:
        network: with a method `features`; its output layer is taken off before.
        width: of its features, flattened.
        encoder: of texts, whose pooling layer is not used.
        prompts: the token ids of each text.
        scale: by which cosines are multiplied.

    Shapes:
        Inputs those of `network`; outputs (batch, texts).
    """

    projection: nn.Linear

    def __init__(
        self,
        network: nn.Module,
        width: int,
        encoder: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        scale: float,
    ) -> None:
        super().__init__()
        self.network, self.encoder, self.scale = network, without_pooler(encoder), scale
        size = encoder.config.get_text_config().hidden_size
        # Its weights are fitted or loaded later.
        self.projection = nn.utils.skip_init(nn.Linear, width, size)  # type: ignore[assignment]
        self.places = by_length(prompts)
        for number, places in enumerate(self.places):
            ids = torch.tensor([list(prompts[place]) for place in places])
            self.register_buffer(f"prompts_{number}", ids, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        found = F.normalize(self.projection(self.seen(inputs)), dim=1)
        return self.scale * found @ self.said().to(found.dtype).T

    def seen(self, inputs: Tensor) -> Tensor:
        """The features of images or sounds, (batch, width)."""
        network: Any = self.network
        return network.features(inputs).flatten(1)

    def said(self) -> Tensor:
        """The embeddings of the texts, of length 1, (texts, size)."""
        found: list[Any] = [None] * sum(map(len, self.places))
        for number, places in enumerate(self.places):
            ids = self.get_buffer(f"prompts_{number}")
            states = self.encoder(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            for place, one in zip(places, states.mean(dim=1), strict=True):
                found[place] = one
        return F.normalize(torch.stack(found), dim=1)
