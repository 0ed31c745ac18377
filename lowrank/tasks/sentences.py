"""Sentences as inputs, and a network that classifies them by their embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.tasks.task import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Stands for no token, at the end of sentences that are shorter than others of their batch.
PADDING = -1


@dataclass(frozen=True)
class SentenceSplit(Split):
    """Sentences as token ids, each batch padded to its longest.

    Args:
        ids: int64, (count, longest), `PADDING` after the end of a sentence.
        labels: int64, (count,).
    """

    ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Tensor) -> Batch:
        """Sentences, int64 (count, length of the longest of them), and their labels."""
        rows = rows.to(self.ids.device)
        ids = self.ids[rows]
        ids = ids[:, : int((ids != PADDING).sum(dim=1).max())]
        return Batch((ids,), self.labels[rows], real={0: ids != PADDING})

    def part(self, rows: Tensor) -> SentenceSplit:
        """The sentences at `rows`."""
        rows = rows.to(self.ids.device)
        return SentenceSplit(self.ids[rows], self.labels[rows])


class SentenceOutputs(NamedTuple):
    """What a `SentenceClassifier` makes of a batch: logits (batch, classes), embeddings (batch,
    width)."""

    logits: Tensor
    embeddings: Tensor


class SentenceClassifier(nn.Module):
    """A linear head on sentence embeddings: the mean of an encoder's states over the real tokens.

    Maps token ids (batch, length), `PADDING` where there is no token, to logits (batch, classes).

    Args:
        encoder: stays as it is, but for an unused pooling layer that is taken away.
        normalize: whether embeddings are scaled to length 1.
    """

    head: nn.Linear

    def __init__(self, encoder: PreTrainedModel, classes: int, normalize: bool) -> None:
        super().__init__()
        text = encoder.config.get_text_config()
        if "pooler" in dict(encoder.named_children()):
            # Makes an embedding of another kind, which is not used.
            encoder.register_module("pooler", None)
        self.encoder = encoder
        self.normalize = normalize
        # Some encoders number the positions of a sentence by where this token is not.
        self.pad_token = text.pad_token_id or 0
        # Its weights come from elsewhere.
        self.head = nn.utils.skip_init(  # type: ignore[assignment]
            nn.Linear, text.hidden_size, classes, dtype=encoder.dtype
        )

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))

    def embed(self, ids: Tensor) -> Tensor:
        """Sentence embeddings (batch, width)."""
        real = ids != PADDING
        filled = ids.masked_fill(~real, self.pad_token)
        states = self.encoder(filled, attention_mask=real.long()).last_hidden_state
        weights = real[:, :, None].to(states.dtype)
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
        return F.normalize(mean, dim=1) if self.normalize else mean


def fit_head(embeddings: Tensor, labels: Tensor, penalty: float) -> dict[str, Tensor]:
    """Weight (classes, width) and bias (classes,) of a multinomial logistic regression, float64.

    Args:
        embeddings: float64, (count, width).
        labels: int64, (count,); every class from 0 occurs.
        penalty: on half the squared length of the weights, against the summed loss.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1 / penalty, max_iter=1000, tol=1e-6)
    fitted.fit(embeddings.numpy(), labels.numpy())
    weight, bias = torch.tensor(fitted.coef_), torch.tensor(fitted.intercept_)
    if len(weight) == 1:  # Of two classes only the difference is given.
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return {"weight": weight, "bias": bias}
