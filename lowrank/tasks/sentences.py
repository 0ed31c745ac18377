"""Splits of sentences, and the network that classifies their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.model.batch import Batch
from lowrank.tasks.task import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Marks padding, at the end of sentences that are shorter than others of their batch.
PADDING = -1


@dataclass(frozen=True)
class SentenceSplit(Split):
    """Sentences as token ids; each batch is padded to its longest sentence.

    Args:
        ids: int64 (count, longest), `PADDING` after the end of a sentence.
        labels: int64, (count,).
    """

    ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Tensor) -> Batch:
        """The batch of sentences, int64 (count, length of the longest), and their labels."""
        rows = rows.to(self.ids.device)
        ids = self.ids[rows]
        ids = ids[:, : int((ids != PADDING).sum(dim=1).max())]
        return Batch((ids,), self.labels[rows], real={0: ids != PADDING})

    def part(self, rows: Tensor) -> SentenceSplit:
        """The split of the sentences at `rows`."""
        rows = rows.to(self.ids.device)
        return SentenceSplit(self.ids[rows], self.labels[rows])


class SentenceOutputs(NamedTuple):
    """The outputs of a `SentenceClassifier`: logits (batch, classes), embeddings (batch, width)."""

    logits: Tensor
    embeddings: Tensor


class SentenceClassifier(nn.Module):
    """A linear head on sentence embeddings, the means of an encoder's states over the real tokens.

    Maps token ids (batch, length), `PADDING` after a sentence, to logits (batch, classes).

    Args:
        encoder: the encoder, from which an unused pooling layer is removed.
        normalize: whether embeddings are scaled to length 1.
    """

    head: nn.Linear

    def __init__(self, encoder: PreTrainedModel, classes: int, normalize: bool) -> None:
        super().__init__()
        text = encoder.config.get_text_config()
        self.encoder = without_pooler(encoder)
        self.normalize = normalize
        # Some encoders count the positions of a sentence by the tokens other than this one.
        self.pad_token = text.pad_token_id or 0
        # Its weights are fitted or loaded later.
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


def without_pooler(encoder: PreTrainedModel) -> PreTrainedModel:
    """An encoder, changed in place, without a pooling layer: that makes another embedding."""
    if "pooler" in dict(encoder.named_children()):
        encoder.register_module("pooler", None)
    return encoder


def filled_up(sentences: Sequence[Sequence[int]]) -> Tensor:
    """The ids of sentences, int64 (count, longest), `PADDING` after the end of each."""
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    ids = torch.full((len(sentences), int(lengths.max())), PADDING)
    # All at once, for tens of thousands of small tensors take long.
    ids[torch.arange(ids.shape[1]) < lengths[:, None]] = torch.tensor(
        [number for sentence in sentences for number in sentence]
    )
    return ids


def fit_head(embeddings: Tensor, labels: Tensor, penalty: float) -> dict[str, Tensor]:
    """Weight (classes, width) and bias (classes,) of a multinomial logistic regression, float64.

    Args:
        embeddings: float64, (count, width).
        labels: int64, (count,); every class from 0 occurs.
        penalty: the factor of half the squared norm of the weights, added to the summed loss.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1 / penalty, max_iter=1000, tol=1e-6)
    fitted.fit(embeddings.numpy(), labels.numpy())
    weight, bias = torch.tensor(fitted.coef_), torch.tensor(fitted.intercept_)
    if len(weight) == 1:  # For two classes the library gives one row, the difference.
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return {"weight": weight, "bias": bias}
