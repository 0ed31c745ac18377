"""Tokens that are hidden in a text and to be guessed: masked language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.numerics.checks import check_number
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.class_metrics import IGNORED, class_metrics
from lowrank.tasks.heads.inputs import Encoded
from lowrank.tasks.heads.targets import ScoredClasses
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.splits import check_seed
from lowrank.tasks.task import loss_metric

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection


@dataclass(frozen=True)
class HiddenTokens(ScoredClasses):
    """Tokens that the tokenizer's mask stands for, as AutoModelForMaskedLM guesses them.

    Which ones are hidden depends on the row and on `mask_seed` alone, so that all models guess the
    same ones; no special token is. A text of special tokens only has no prediction.

    Args:
        share: of the tokens that are hidden, at least one in a text.
        mask_seed: draws them.
    """

    one = "token"

    share: float = 0.15
    mask_seed: int = 0

    def __post_init__(self) -> None:
        check_number("share", self.share, "lie in (0, 1]", lambda x: 0 < x <= 1)
        check_seed("mask_seed", self.mask_seed)

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[None]:
        if source.tokenizer.mask_token_id is None:
            raise ValueError(
                f"the tokenizer of model {source.name!r} has no mask: it is no masked language "
                "model"
            )
        return [None] * len(data)

    def batch(
        self, wanted: list[Any], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        tokenizer: Any = source.tokenizer
        ids = encoded.inputs["input_ids"]
        usual = ~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        hidden = torch.stack([self._drawn(*pair) for pair in zip(usual, rows, strict=True)])
        inputs = {
            **encoded.inputs,
            "input_ids": ids.masked_fill(hidden, tokenizer.mask_token_id),
        }
        return Batch(inputs, ids.masked_fill(~hidden, IGNORED), encoded.real)

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> Tensor:
        return batch.run(model).logits.movedim(-1, 1)

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        accuracy = class_metrics(self.classes(source))[0]
        return (loss_metric("hidden token", minor=False), accuracy, *agreement_metrics("token"))

    def metrics(self, source: Pretrained) -> MetricCollection:
        """top1, the share of hidden tokens that are the likeliest."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        accuracy = MulticlassAccuracy(self.classes(source), average="micro")
        return MetricCollection({"top1": accuracy})

    def classes(self, source: Pretrained) -> int:
        return source.config.get_text_config().vocab_size

    def protocol(self) -> dict[str, Any]:
        return {"share": self.share, "mask_seed": self.mask_seed}

    def _drawn(self, usual: Tensor, row: int) -> Tensor:
        """Which tokens of a text are hidden, bool (length,), whatever it is padded to."""
        places = torch.nonzero(usual)[:, 0]
        if not len(places):
            return torch.zeros_like(usual)
        # The seeds of rows and those of users are apart, so that no two streams are the same.
        generator = torch.Generator().manual_seed((self.mask_seed * 1_000_003 + row) % 2**63)
        count = max(1, round(self.share * len(places)))
        chosen = places[torch.randperm(len(places), generator=generator)[:count]]
        return torch.zeros_like(usual).index_fill(0, chosen, True)
