"""Packing of a text into inputs of a language model, and the choice of predicted tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.model.batch import Batch
from lowrank.numerics.checks import check_flag, check_integer
from lowrank.tasks.class_metrics import IGNORED, mean_of_counted
from lowrank.tasks.groupings import Grouping
from lowrank.tasks.score_parts import in_parts
from lowrank.tasks.splits import ValidationFrom
from lowrank.tasks.task import Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Bos = Literal["row", "text", "sequence", "none"]


# If the mean number of characters between white space is larger, these are no words: in
# agglutinating languages, whose words are longest, it is about 15.
LONGEST_WORDS = 32


@dataclass(frozen=True)
class TokenSplit(Split):
    """Sequences of tokens, each with the next tokens as targets.

    Args:
        inputs: int64, (count, length).
        targets: int64, (count, length); `IGNORED` at predictions that do not count.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, rows: Tensor) -> Batch:
        rows = rows.to(self.inputs.device)
        return Batch((self.inputs[rows],), self.targets[rows])

    def part(self, rows: Tensor) -> TokenSplit:
        """The split of the sequences at `rows`."""
        rows = rows.to(self.inputs.device)
        return TokenSplit(self.inputs[rows], self.targets[rows])


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, and its numbers of words, characters and bytes.

    Attributes:
        ids: int64, (count,).
        words, characters, size: the numbers of words between white space, of code points, and of
            UTF-8 bytes.
    """

    ids: Tensor
    words: int
    characters: int
    size: int

    @property
    def per_word(self) -> float | None:
        """Tokens per word; None if white space parts no words."""
        is_parted = self.words >= 1 and self.characters <= LONGEST_WORDS * self.words
        return len(self.ids) / self.words if is_parted else None

    @property
    def per_byte(self) -> float | None:
        """Tokens per byte; None if there are no bytes."""
        return len(self.ids) / self.size if self.size >= 1 else None


@dataclass(frozen=True)
class Packing:
    """The rule that packs the rows of a text into inputs (count, sequence_length) without padding.

    Rows are joined, and the text is cut into inputs; a rest at the end is left out. A token is
    predicted from all tokens before it in its input, also those of earlier rows, so the first token
    of an input is not predicted.

    Args:
        sequence_length: the number of tokens in an input.
        stride: tokens from the start of one test input to that of the next; by default the length
            of an input. With a smaller stride inputs overlap, and in each input but the first only
            the last `stride` tokens count. Each then has more text before it, which lowers the
            perplexity and takes more time.
        bos: the place of the tokenizer's beginning-of-sequence token: before each `row` (rows are
            then tokenized apart), once before the `text`, before each `sequence`, or nowhere
            (`none`).
        strip: whether white space at the ends of each row is removed.
        separator: the text between rows, unless they are tokenized apart.

    Raises:
        ValueError: an option outside its range; from the methods, a tokenizer without a
            beginning-of-sequence token, or a text that does not fill one input.
    """

    sequence_length: int
    stride: int | None = None
    bos: Bos = "none"
    strip: bool = False
    separator: str = ""

    def __post_init__(self) -> None:
        if self.bos not in get_args(Bos):
            raise ValueError(f"bos={self.bos!r} must be one of {', '.join(get_args(Bos))}")
        if self.bos == "row" and self.separator:
            raise ValueError(
                f"separator={self.separator!r} would be of no effect with bos='row', which "
                "tokenizes rows apart: leave it empty"
            )
        check_integer("sequence_length", self.sequence_length)
        check_flag("strip", self.strip)
        if not isinstance(self.separator, str):
            raise ValueError(f"separator={self.separator!r} must be a text, such as '\\n'")
        least = 2 + (self.bos == "sequence")
        if self.sequence_length < least:
            raise ValueError(
                f"sequence_length={self.sequence_length} must be at least {least}: a shorter "
                "input has no token to predict, or none before it"
            )
        if self.stride is None:
            return
        check_integer("stride", self.stride)
        if not 1 <= self.stride <= self.own:
            raise ValueError(
                f"stride={self.stride} must lie in 1..{self.own}, the tokens of the text in one "
                "input: a larger stride would leave tokens out of every input"
            )

    @property
    def own(self) -> int:
        """The number of tokens of the text in one input."""
        return self.sequence_length - (self.bos == "sequence")

    @property
    def step(self) -> int:
        """The number of tokens from the start of one test input to that of the next."""
        return self.own if self.stride is None else self.stride

    def tokenize(self, rows: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Tokens:
        """The tokens of the whole text."""
        bos = [] if self.bos == "none" else [_bos(tokenizer)]
        rows = [row.strip() for row in rows] if self.strip else list(rows)
        pieces = rows if self.bos == "row" else [self.separator.join(rows)]
        # verbose would warn that the text is longer than an input, which is intended.
        parts = tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
        start = [] if self.bos == "sequence" else bos
        ids = [number for part in parts for number in (*start, *part)]
        words = sum(len(piece.split()) for piece in pieces)
        size = sum(len(piece.encode()) for piece in pieces)
        return Tokens(torch.tensor(ids, dtype=torch.int64), words, sum(map(len, pieces)), size)

    def cut(self, ids: Tensor, step: int, tokenizer: PreTrainedTokenizerBase) -> TokenSplit:
        """The inputs, whose starts are `step` tokens of the text apart, with their targets."""
        if len(ids) < self.own:
            raise ValueError(
                f"the text is {len(ids)} tokens long and does not fill one sequence of "
                f"{self.sequence_length}: take a longer text, or a smaller sequence_length"
            )
        inputs = ids.unfold(0, self.own, step)
        # Tokens shared with the input before count there only.
        counted = torch.arange(self.own).expand(inputs.shape) >= self.own - step
        counted[0] = True
        if self.bos == "sequence":
            first = torch.full((len(inputs), 1), _bos(tokenizer))
            inputs = torch.cat([first, inputs], dim=1)
            counted = torch.cat([torch.zeros_like(first, dtype=torch.bool), counted], dim=1)
        wanted = inputs.masked_fill(~counted, IGNORED)[:, 1:]
        nothing = torch.full((len(inputs), 1), IGNORED)
        return TokenSplit(inputs.contiguous(), torch.cat([wanted, nothing], dim=1))

    def covered(self, tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> Tokens:
        """The part of a text that the test inputs cover."""
        whole, own, step = len(tokens.ids), self.own, self.step
        inside = own + (whole - own) // step * step
        rest = tokenizer.decode(tokens.ids[inside:].tolist(), skip_special_tokens=True)
        assert isinstance(rest, str)
        return Tokens(
            tokens.ids[:inside],
            tokens.words - len(rest.split()),
            tokens.characters - len(rest),
            tokens.size - len(rest.encode()),
        )


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean negative log-likelihood of the counted targets (batch, length), in nats per token.

    Args:
        logits: (batch, length, vocabulary).
    """
    total = torch.stack(_losses(logits, targets, "sum")).sum()
    return total / (targets != IGNORED).sum()


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Those of single targets, (batch, length); 0 where one does not count."""
    return torch.cat(_losses(logits, targets, "none")).view_as(targets)


def _losses(logits: Tensor, targets: Tensor, reduction: str) -> list[Tensor]:
    return [
        F.cross_entropy(scores.float(), wanted, ignore_index=IGNORED, reduction=reduction)
        for scores, wanted in in_parts(logits.flatten(0, 1), targets.flatten())
    ]


def sequence_outcomes(
    logits: Tensor,
    batch: Batch,
    tokens_per_word: float | None,
    tokens_per_byte: float | None,
    groupings: Sequence[Grouping] = (),
) -> dict[str, Tensor]:
    """The outcomes of sequences under logits (batch, length, vocabulary): means over the counted
    predictions of each, by the names of the metrics of `Likelihood`, float64 (batch,); and by the
    names of `groupings` the mean losses of their groups, float64 (batch, groups).

    "loss" and "perplexity" are the mean negative log-likelihood, in nats; "word_perplexity" is that
    times `tokens_per_word`, "bits_per_byte" in bits times `tokens_per_byte`.

    Args:
        batch: with targets (batch, length), `IGNORED` where a prediction does not count.
    """
    targets = batch.targets
    counted = targets != IGNORED
    each = token_losses(logits, targets)
    nats = mean_of_counted(each, counted)
    right = mean_of_counted(logits.argmax(dim=2) == targets, counted)
    found = {"loss": nats, "perplexity": nats, "token_accuracy": right}
    if tokens_per_word is not None:
        found["word_perplexity"] = nats * tokens_per_word
    if tokens_per_byte is not None:
        found["bits_per_byte"] = nats / math.log(2) * tokens_per_byte
    return found | {grouping.name: grouping.means(each, batch) for grouping in groupings}


def check_validation(packing: Packing, validation_from: ValidationFrom, split_seed: int) -> None:
    """Raise ValueError for options of a split `validation` without effect or that do not fit."""
    if validation_from == "train" and split_seed != 0:
        raise ValueError(
            f"split_seed={split_seed} has no effect with validation_from=train, whose validation "
            "is the last inputs: leave it out"
        )
    if validation_from == "test" and packing.step < packing.own:
        raise ValueError(
            f"validation_from=test needs test inputs that do not overlap, and "
            f"stride={packing.stride} makes them: leave stride out, or take validation_from=train"
        )


def _bos(tokenizer: PreTrainedTokenizerBase) -> int:
    number = tokenizer.bos_token_id
    if not isinstance(number, int):
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path} has no token for a beginning: set bos to "
            "none"
        )
    return number


@torch.no_grad()
def check_causal(logits: Callable[[Tensor], Tensor], name: str, device: str) -> None:
    """Raise ValueError if the outputs of a model at one position depend on later tokens.

    Args:
        logits: the outputs (1, length, vocabulary) of token ids (1, length).
        name: of the model.
    """
    # A model that sees the token to predict, such as BERT, would have the best perplexity.
    text = torch.zeros(1, 4, dtype=torch.int64, device=device)
    other = text.clone()
    other[0, -1] = 1
    early, changed = (logits(ids)[:, :-1] for ids in (text, other))
    if not torch.allclose(early, changed, equal_nan=True):
        raise ValueError(
            f"model {name!r} is not causal: its outputs depend on tokens that come later, so it "
            "has no perplexity"
        )
