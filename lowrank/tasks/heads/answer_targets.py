"""Answers that are parts of a context, from their first to their last token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.numerics.checks import check_integer
from lowrank.tasks.agreement import agreement_metrics, class_agreement, class_divergence
from lowrank.tasks.heads.inputs import Encoded, column_of, texts_of
from lowrank.tasks.heads.targets import Targets
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.splits import check_text
from lowrank.tasks.task import loss_metric

if TYPE_CHECKING:
    from datasets import Dataset
    from torchmetrics import MetricCollection

METRICS = (
    Metric("f1", "F1 of the words of answers (test split)", "F1", "percent", average="mean"),
    Metric(
        "exact_match",
        "share of answers found word for word (test split)",
        "exact match (%)",
        "percent",
        average="mean",
    ),
)
# The score of a position that is padding.
LOWEST = -1e4


class SpanScores(NamedTuple):
    """Scores of each token as the first and as the last one of the answer, (batch, length)."""

    first: Tensor
    last: Tensor


class Answer(NamedTuple):
    """A context, and all its right answers with their first letters."""

    context: str
    texts: list[str]
    starts: list[int]


class Spans(NamedTuple):
    """The right spans of a batch.

    Attributes:
        first, last: int64, (batch,), tokens of the first answer of each; 0, as in the program of
            transformers, where the context was cut before its end.
        answers: those of the rows.
        offsets: int64, (batch, length, 2), the letters of the context of each token; −1 of none.
    """

    first: Tensor
    last: Tensor
    answers: list[Answer]
    offsets: Tensor


@dataclass(frozen=True)
class AnswerTargets(Targets):
    """Answers as in SQuAD, each a part of its context, from `QuestionInputs`.

    The answer of a model is the span of tokens of the context with the highest sum of the scores of
    its first and its last one. F1 and exact match are SQuAD's, without regard to case, articles and
    punctuation, the best over the right answers. The loss is the mean of the cross-entropies of
    the first and of the last token.

    Args:
        context: the column of the contexts.
        answers: the column with lists ``text`` and ``answer_start``, a letter of the context.
        longest: the most tokens of an answer of the model.

    Raises:
        ValueError: a number below 1; from `answers`, a row without an answer, or one whose answer
            is not where it says.

    Source: Rajpurkar et al., EMNLP 2016.
    """

    context: str = "context"
    column: str = "answers"
    longest: int = 30

    def __post_init__(self) -> None:
        check_text("context", self.context)
        check_text("column", self.column)
        check_integer("longest", self.longest, least=1)

    def answers(self, data: Dataset, source: Pretrained) -> Sequence[Answer]:
        contexts, found = texts_of(data, self.context), column_of(data, self.column)
        pairs = enumerate(zip(contexts, found, strict=True))
        return [self._answer(row, context, said) for row, (context, said) in pairs]

    def batch(
        self, wanted: list[Any], encoded: Encoded, source: Pretrained, rows: list[int]
    ) -> Batch:
        if encoded.offsets is None:
            raise ValueError("answers have places in a context: take inputs=QuestionInputs()")
        spans = [tokens_of(*pair) for pair in zip(wanted, encoded.offsets, strict=True)]
        first, last = torch.tensor(spans, dtype=torch.int64).T
        return Batch(encoded.inputs, Spans(first, last, wanted, encoded.offsets), encoded.real)

    def outputs(self, model: nn.Module, batch: Batch, source: Pretrained) -> SpanScores:
        found = batch.run(model)
        scores = SpanScores(found.start_logits, found.end_logits)
        real = batch.real.get("input_ids")
        if real is None:
            return scores
        return SpanScores(*(each.masked_fill(~real, LOWEST) for each in scores))

    def loss(self, outputs: SpanScores, targets: Spans) -> Tensor:
        return _losses(outputs, targets).mean()

    def predictions(self, batch: Batch) -> Tensor:
        return torch.ones(len(batch), dtype=torch.int64)

    def outcomes(self, outputs: SpanScores, batch: Batch) -> dict[str, Tensor]:
        """ "loss", "f1" and "exact_match"."""
        scores = self._scores(outputs, batch.targets)
        return {"loss": _losses(outputs, batch.targets), **scores}

    def agreement(self, outputs: SpanScores, dense: SpanScores, batch: Batch) -> dict[str, Tensor]:
        """ "flipped", where another token is first or last, and "kl", the mean of both."""
        first, last = (class_agreement(*pair) for pair in zip(outputs, dense, strict=True))
        return {
            "flipped": torch.maximum(first["flipped"], last["flipped"]),
            "kl": (first["kl"] + last["kl"]) / 2,
        }

    def distance(self, outputs: SpanScores, dense: SpanScores, batch: Batch) -> Tensor:
        """KL(dense ‖ model), the mean over questions and of the first and the last token."""
        first, last = (class_divergence(*pair) for pair in zip(outputs, dense, strict=True))
        return (first + last) / 2

    def judged_by(self, source: Pretrained) -> tuple[Metric, ...]:
        return (*METRICS, loss_metric("question"), *agreement_metrics("question"))

    def metrics(self, source: Pretrained) -> MetricCollection:
        """f1 and exact_match, in [0, 1]."""
        from torchmetrics import MeanMetric, MetricCollection

        return MetricCollection({metric.name: MeanMetric() for metric in METRICS})

    def count(self, metrics: MetricCollection, outputs: SpanScores, targets: Spans) -> None:
        for name, values in self._scores(outputs, targets).items():
            one: Any = metrics[name]
            one.update(values)

    def protocol(self) -> dict[str, Any]:
        return {"longest_answer": self.longest}

    def written(self, outputs: SpanScores, targets: Spans) -> list[str]:
        """The answers of a model."""
        length = outputs.first.shape[1]
        places = torch.arange(length, device=outputs.first.device)
        behind = places - places[:, None]
        sums = outputs.first[:, :, None].double() + outputs.last[:, None, :].double()
        sums = sums.masked_fill((behind < 0) | (behind >= self.longest), float("-inf"))
        inside = targets.offsets[:, :, 0] >= 0
        sums = sums.masked_fill(~(inside[:, :, None] & inside[:, None, :]), float("-inf"))
        best = sums.flatten(1).argmax(dim=1)
        rows = torch.arange(len(best), device=best.device)
        starts = targets.offsets[rows, best // length, 0].tolist()
        ends = targets.offsets[rows, best % length, 1].tolist()
        places = zip(targets.answers, starts, ends, strict=True)
        # A question may leave no room for a token of its context: then both are -1.
        return [answer.context[start:end] if start >= 0 else "" for answer, start, end in places]

    def _scores(self, outputs: SpanScores, targets: Spans) -> dict[str, Tensor]:
        from torchmetrics.functional.text import squad

        found: list[Mapping[str, Tensor]] = []
        for text, answer in zip(self.written(outputs, targets), targets.answers, strict=True):
            right = {"text": answer.texts, "answer_start": answer.starts}
            said = {"prediction_text": text, "id": ""}
            found.append(squad([said], [{"answers": right, "id": ""}]))
        names = [metric.name for metric in METRICS]
        return {name: torch.stack([one[name] for one in found]) / 100 for name in names}

    def _answer(self, row: int, context: str, said: Any) -> Answer:
        place = f"column {self.column!r} in row {row}"
        if not isinstance(said, Mapping) or not {"text", "answer_start"} <= set(said):
            raise ValueError(f"{place} must hold lists `text` and `answer_start`, not {said!r:.60}")
        texts, starts = list(said["text"]), list(said["answer_start"])
        if not texts or len(texts) != len(starts):
            raise ValueError(f"{place} has {len(texts)} answers and {len(starts)} places: need one")
        for text, start in zip(texts, starts, strict=True):
            if not text or start < 0 or context[start : start + len(text)] != text:
                raise ValueError(f"{place}: the answer {text!r:.60} is not at letter {start}")
        return Answer(context, texts, starts)


def tokens_of(answer: Answer, offsets: Tensor) -> tuple[int, int]:
    """The first and the last token of the first right answer; (0, 0) if it is not whole there.

    Args:
        offsets: of the tokens, (length, 2); see `Spans`.
    """
    start = answer.starts[0]
    end = start + len(answer.texts[0])
    inside = (offsets[:, 0] >= 0) & (offsets[:, 0] < end) & (offsets[:, 1] > start)
    tokens = torch.nonzero(inside)[:, 0].tolist()
    if not tokens or int(offsets[tokens[-1], 1]) < end:
        return 0, 0
    return tokens[0], tokens[-1]


def _losses(outputs: SpanScores, targets: Spans) -> Tensor:
    """The loss of each question, (batch,)."""
    first = F.cross_entropy(outputs.first, targets.first, reduction="none")
    return (first + F.cross_entropy(outputs.last, targets.last, reduction="none")) / 2
