"""Metrics of language models. Imports torchmetrics, so it should be imported only when needed.

Raises:
    MissingExtra: when imported without the extra ``tasks``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric as Meaning
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.token_sequences import token_losses

need("a language model's measures", "torchmetrics")
from torchmetrics import Metric  # noqa: E402  Not before its absence is said.

# The metrics that `Likelihood` measures.
LIKELIHOOD = (
    Meaning(
        "perplexity",
        "perplexity (test split, per token)",
        "perplexity",
        "log",
        higher_is_better=False,
        average="exp",
    ),
    Meaning(
        "word_perplexity",
        "perplexity (test split, per word)",
        "word perplexity",
        "log",
        higher_is_better=False,
        average="exp",
    ),
    Meaning(
        "bits_per_byte",
        "bits per byte of text (test split)",
        "bits per byte",
        higher_is_better=False,
        average="mean",
    ),
    Meaning(
        "token_accuracy",
        "accuracy of the next token (test split)",
        "token accuracy (%)",
        "percent",
        minor=True,
        average="mean",
    ),
)


class Likelihood(Metric):
    """The likelihood of the next tokens (batch, length) under logits (batch, length, vocabulary):

    - "perplexity": exp of the mean negative log-likelihood of the counted predictions;
    - "word_perplexity": perplexity to the power of `tokens_per_word`;
    - "bits_per_byte": log2 of the perplexity times `tokens_per_byte`;
    - "token_accuracy": the share of counted predictions whose likeliest token is the next one.

    Measures per word and per byte do not depend on the tokenizer, so they compare models with
    different tokenizers.

    Args:
        tokens_per_word, tokens_per_byte: ratios of the evaluated text; if one is None, its measure
            is left out.
    """

    full_state_update = False
    nats: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self, tokens_per_word: float | None, tokens_per_byte: float | None) -> None:
        super().__init__()
        self.tokens_per_word = tokens_per_word
        self.tokens_per_byte = tokens_per_byte
        for name in ("nats", "correct", "count"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.nats += token_losses(outputs, targets).double().sum()
        self.correct += (outputs.argmax(dim=2) == targets).sum()
        self.count += (targets != IGNORED).sum()

    def compute(self) -> dict[str, Tensor]:
        nats = self.nats / self.count
        found = {"perplexity": nats.exp()}
        if self.tokens_per_word is not None:
            found["word_perplexity"] = (nats * self.tokens_per_word).exp()
        if self.tokens_per_byte is not None:
            found["bits_per_byte"] = nats / math.log(2) * self.tokens_per_byte
        return found | {"token_accuracy": self.correct / self.count}
