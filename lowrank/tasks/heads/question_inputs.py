"""Questions with the contexts that hold their answers, for a model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lowrank.numerics.checks import check_integer
from lowrank.tasks.heads.inputs import Encoded, ModelInputs, texts_of, tokenized
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.splits import check_text

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class QuestionInputs(ModelInputs):
    """A question and its context, by the model's own tokenizer, which must be a fast one.

    Args:
        question, context: the columns of the texts.
        max_length: the most tokens of both; the context is cut at its end.
    """

    question: str = "question"
    context: str = "context"
    max_length: int = 384

    def __post_init__(self) -> None:
        check_text("question", self.question)
        check_text("context", self.context)
        check_integer("max_length", self.max_length, least=1)

    def examples(self, data: Dataset, source: Pretrained) -> Sequence[tuple[str, str]]:
        source.check_length("max_length", self.max_length)
        source.check_fast("where in a text a token is")
        texts = (texts_of(data, self.question), texts_of(data, self.context))
        return list(zip(*texts, strict=True))

    def encode(self, examples: list[Any], source: Pretrained, rows: list[int]) -> Encoded:
        columns = [list(column) for column in zip(*examples, strict=True)]
        found, real = tokenized(
            source,
            self.max_length,
            rows,
            *columns,
            truncation="only_second",
            return_offsets_mapping=True,
        )
        inputs = {name: value for name, value in found.items() if name != "offset_mapping"}
        texts = [found.sequence_ids(row) for row in range(len(examples))]
        is_context = torch.tensor([[text == 1 for text in row] for row in texts])
        offsets = found["offset_mapping"].masked_fill(~is_context[:, :, None], -1)
        return Encoded(inputs, real, offsets=offsets)
