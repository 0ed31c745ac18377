"""Pairs of texts, a source and the text wanted for it, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowrank.model.batch import Batch
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.sentences import PADDING, filled_up
from lowrank.tasks.task import Split
from lowrank.tasks.text_sources import HubText


class PairTargets(NamedTuple):
    """The wanted texts of a batch: token ids (batch, length), `IGNORED` after the end, and the
    texts themselves."""

    ids: Tensor
    texts: list[str]


@dataclass(frozen=True)
class TextPairs(Split):
    """Pairs of texts; a batch is padded to its longest source and its longest target.

    The inputs of a batch are ``input_ids``, ``attention_mask`` and ``decoder_input_ids``, the
    target after its first token, the last one left out.

    Args:
        sources, targets: int64 (count, longest), `PADDING` after the end.
        texts: the targets as texts.
        start: the token before a target.
        pad: the token that fills up.
    """

    sources: Tensor
    targets: Tensor
    texts: list[str]
    start: int
    pad: int

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, rows: Tensor) -> Batch:
        places = rows.tolist()
        rows = rows.to(self.sources.device)
        sources, targets = _shortened(self.sources[rows]), _shortened(self.targets[rows])
        real, wanted = sources != PADDING, targets != PADDING
        inputs = {
            "input_ids": sources.masked_fill(~real, self.pad),
            "attention_mask": real.long(),
            "decoder_input_ids": shifted(targets, self.start, self.pad),
        }
        return Batch(
            inputs,
            PairTargets(targets.masked_fill(~wanted, IGNORED), [self.texts[at] for at in places]),
            real={"input_ids": real, "attention_mask": real, "decoder_input_ids": wanted},
        )

    def part(self, rows: Tensor) -> TextPairs:
        """The pairs at `rows`."""
        texts = [self.texts[at] for at in rows.tolist()]
        rows = rows.to(self.sources.device)
        return TextPairs(self.sources[rows], self.targets[rows], texts, self.start, self.pad)

    def to(self, device: str) -> TextPairs:
        """The same pairs on another device."""
        return replace(self, sources=self.sources.to(device), targets=self.targets.to(device))

    @property
    def lengths(self) -> Tensor:
        """The numbers of tokens of the sources and of the targets, int64 (count, 2)."""
        counts = [(ids != PADDING).sum(dim=1) for ids in (self.sources, self.targets)]
        return torch.stack(counts, dim=1)


def _shortened(ids: Tensor) -> Tensor:
    return ids[:, : int((ids != PADDING).sum(dim=1).max())]


def read_pairs(
    text: HubText, target: str, model: Pretrained, prefix: str, max_length: int, max_written: int
) -> TextPairs:
    """The pairs of a text, by the tokenizer of a model.

    Args:
        target: the column with the wanted text.
        prefix: text before each source.
        max_length: the most tokens of a source; further ones are cut off.
        max_written: the most tokens of a target.

    Raises:
        ValueError: an empty text, a target that is too long, more tokens than the model has
            positions, or a model that has no token before the first.
    """
    start, pad = start_of(model)
    wanted = replace(text, column=target)
    sources, texts = text.rows(), wanted.rows()
    check_no_empty(text, sources)
    check_no_empty(wanted, texts)
    options: dict[str, Any] = {"verbose": False, "return_attention_mask": False}
    given = model.tokenizer(
        text=[prefix + row for row in sources], truncation=True, max_length=max_length, **options
    )
    right = model.tokenizer(text_target=texts, **options)
    check_written(wanted, right["input_ids"], max_written)
    sources_ids, targets_ids = filled_up(given["input_ids"]), filled_up(right["input_ids"])
    for name, ids in (("max_length", sources_ids), ("max_written", targets_ids)):
        model.check_ids(ids)
        model.check_length(name, ids.shape[1])
    return TextPairs(sources_ids, targets_ids, texts, start, pad)


def shifted(targets: Tensor, start: int, pad: int) -> Tensor:
    """What a decoder is given: the token before the first, and the targets without the last.

    Args:
        targets: int64 (batch, length), `PADDING` after the end.
    """
    first = torch.full_like(targets[:, :1], start)
    before = torch.cat([first, targets[:, :-1]], dim=1)
    return before.masked_fill(before == PADDING, pad)


def start_of(model: Pretrained) -> tuple[int, int]:
    """The token that a model is given before the first of a text, and that which fills up.

    Raises:
        ValueError: it has none.
    """
    config: Any = model.config
    start, pad = (getattr(config, f"{name}_token_id", None) for name in ("decoder_start", "pad"))
    if start is None or pad is None:
        raise ValueError(
            f"the config of model {model.name!r} has no decoder_start_token_id or no "
            "pad_token_id: it is no encoder and decoder that writes texts"
        )
    return start, pad


def check_no_empty(text: HubText | str, rows: Sequence[str]) -> None:
    """Raise ValueError if a text is blank.

    Args:
        text: what they are of, for the error.
    """
    empty = [number for number, row in enumerate(rows) if not row.strip()]
    if empty:
        raise ValueError(f"{text}: the text in row {empty[0]} is empty")


def check_written(text: HubText | str, rows: Sequence[Sequence[int]], most: int) -> None:
    """Raise ValueError if a text has too many tokens."""
    long = [number for number, row in enumerate(rows) if len(row) > most]
    if long:
        raise ValueError(
            f"{text}: the text in row {long[0]} has {len(rows[long[0]])} tokens, more than "
            f"max_written={most}: raise it, or leave the row out"
        )
