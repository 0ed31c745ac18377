"""Scores of written texts against the wanted ones: BLEU and chrF, and word and character errors.

Each is a function of counts that are summed over the texts, so the score of all texts but one
follows from the sums.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.numerics.checks import check_flag, check_one_of

Tokenization = Literal["13a", "intl", "zh", "char", "none"]
TRANSLATION = (
    Metric("bleu", "BLEU (test split)", "BLEU", "percent", average="mean"),
    Metric("chrf", "chrF (test split)", "chrF", "percent", average="mean"),
)
RECOGNITION = tuple(
    Metric(
        name,
        f"{unit} error rate (test split)",
        f"{name[0].upper()}ER (%)",
        "percent",
        higher_is_better=False,
        average="mean",
    )
    for name, unit in (("wer", "word"), ("cer", "character"))
)


class TextScores(ABC):
    """Scores of written texts; each final class is a frozen dataclass."""

    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The scores, the primary one first."""

    @abstractmethod
    def counts(self, written: Sequence[str], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """The counts of each text, float64 (texts, counts), by the names of the metrics."""

    @abstractmethod
    def score(self, name: str, sums: np.ndarray) -> float:
        """The score of texts with these sums of counts, (counts,)."""


@dataclass(frozen=True)
class TranslationScores(TextScores):
    """BLEU, the primary one, and chrF of sacrebleu, as shares of 1, each with one reference.

    Source: Post, WMT 2018 (sacrebleu); Papineni et al., ACL 2002 (BLEU); Popović, WMT 2015 (chrF).

    Args:
        tokenize: the tokenization of BLEU.
        lowercase: whether letters in upper and lower case are the same for BLEU.

    Raises:
        ValueError: another tokenization, or a flag that is none.
    """

    tokenize: Tokenization = "13a"
    lowercase: bool = False

    def __post_init__(self) -> None:
        check_one_of("tokenize", self.tokenize, get_args(Tokenization))
        check_flag("lowercase", self.lowercase)
        need("scores of translations", "sacrebleu")

    def metrics(self) -> tuple[Metric, ...]:
        return TRANSLATION

    def counts(self, written: Sequence[str], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        # What sacrebleu sums up for its own bootstrap.
        return {
            name: np.array(
                metric._extract_corpus_statistics(list(written), [list(wanted)]), dtype=float
            )
            for name, metric in self._scorers.items()
        }

    def score(self, name: str, sums: np.ndarray) -> float:
        sums = sums.round().astype(int)
        return self._scorers[name]._aggregate_and_compute([sums.tolist()]).score / 100

    @cached_property
    def _scorers(self) -> Mapping[str, Any]:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        return {"bleu": BLEU(tokenize=self.tokenize, lowercase=self.lowercase), "chrf": CHRF()}


@dataclass(frozen=True)
class RecognitionScores(TextScores):
    """Word and character error rates of jiwer, the primary one first: the least number of
    substitutions, deletions and insertions, over the number of wanted words or characters.
    """

    def __post_init__(self) -> None:
        need("error rates of texts", "jiwer")

    def metrics(self) -> tuple[Metric, ...]:
        return RECOGNITION

    def counts(self, written: Sequence[str], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        import jiwer

        found: dict[str, Any] = {"wer": [], "cer": []}
        for ours, right in zip(written, wanted, strict=True):
            for name, process in (("wer", jiwer.process_words), ("cer", jiwer.process_characters)):
                one = process(right, ours)
                errors = one.substitutions + one.deletions + one.insertions
                found[name].append((errors, one.hits + one.substitutions + one.deletions))
        return {name: np.array(counts, dtype=float) for name, counts in found.items()}

    def score(self, name: str, sums: np.ndarray) -> float:
        errors, wanted = sums
        return float(errors / wanted)
