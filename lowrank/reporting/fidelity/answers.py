"""Statistics of a compressed model beside the dense one, from the outcomes of single examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lowrank.numerics.checks import check_integer
from lowrank.records.outcomes import CONFIDENCE, PREDICTED, Outcomes
from lowrank.statistics.calibration_error import Bins, calibration_error
from lowrank.statistics.estimates import Estimate, weighted_mean

BINS: Mapping[str, Bins] = {"ece": "width", "ece_mass": "mass"}


class NotDefined(ValueError):
    """The outcomes of a task do not define what a table would show."""


class Recall(NamedTuple):
    """The shares of a class's examples that are answered rightly, and the change between them."""

    dense: Estimate
    compressed: Estimate
    change: Estimate

    @property
    def fall(self) -> Estimate:
        """dense − compressed, above 0 where the class lost."""
        return self.dense - self.compressed


def counted(outcomes: Outcomes) -> Outcomes:
    """The outcomes without the examples that have no predictions."""
    return outcomes.of(outcomes.weights > 0)


def continuations(outcomes: Outcomes) -> dict[str, Estimate]:
    """ "equal_tokens", the share of equal tokens at equal places of two models' continuations, and
    "common_prefix", the number of tokens before the first that differs: means over the prompts.

    Empty where they were not measured.

    Source: the common prefix is the first divergent token of Deiseroth et al., NAACL 2024.
    """
    found = outcomes.continuations
    if found is None:
        return {}
    weights = np.ones(len(found.prompts))
    return {
        "equal_tokens": weighted_mean(found.same / found.written, weights, found.prompts),
        "common_prefix": weighted_mean(found.prefix, weights, found.prompts),
    }


def has_classes(outcomes: Outcomes) -> bool:
    """Whether each example has one class, and both models one answer."""
    both = outcomes.dense, outcomes.compressed
    return outcomes.target is not None and all(PREDICTED in part for part in both)


def agreement(outcomes: Outcomes) -> dict[str, Estimate]:
    """ "flipped" and "kl", where the outcomes hold them: means over the predictions."""
    held = outcomes.compressed
    return {
        name: weighted_mean(held[name], outcomes.weights, outcomes.examples)
        for name in ("flipped", "kl")
        if name in held
    }


def changed_answers(outcomes: Outcomes) -> dict[str, Estimate]:
    """Shares of the examples: "right_to_wrong", "wrong_to_right", "wrong_to_wrong" (another wrong
    answer). Their sum is the share of flipped answers.

    Raises:
        NotDefined: the outcomes have no classes.
    """
    target, dense, ours = _answers(outcomes)
    was_right, is_right = dense == target, ours == target
    flags = {
        "right_to_wrong": was_right & ~is_right,
        "wrong_to_right": ~was_right & is_right,
        "wrong_to_wrong": ~was_right & ~is_right & (dense != ours),
    }
    return {name: _share(flag, outcomes) for name, flag in flags.items()}


def calibration(outcomes: Outcomes, bins: int = 15) -> dict[str, Estimate]:
    """Expected calibration errors: "ece" (bins of equal width) and "ece_mass" (of equal mass), of
    the dense model after "dense_", and what the compression adds, "ece_change".

    Raises:
        ValueError: the outcomes have no classes or no confidences, or `bins` cannot be.
    """
    target, dense, ours = _answers(outcomes)
    found = {}
    for start, answers, part in (
        ("dense_", dense, outcomes.dense),
        ("", ours, outcomes.compressed),
    ):
        right, confidence = (answers == target).astype(float), _confidence(part)
        for name, equal in BINS.items():
            found[f"{start}{name}"] = calibration_error(
                confidence, right, outcomes.examples, bins, equal
            )
    return found | {"ece_change": found["ece"] - found["dense_ece"]}


def recalls(outcomes: Outcomes) -> dict[int, Recall]:
    """The recall of each class that occurs, by its number.

    Raises:
        NotDefined: the outcomes have no classes.
    """
    target, dense, ours = _answers(outcomes)
    found = {}
    for number in np.unique(target).tolist():
        mask = target == number
        both = [_share((answers == target)[mask], outcomes, mask) for answers in (dense, ours)]
        found[number] = Recall(both[0], both[1], both[1] - both[0])
    return found


def agreement_by_confidence(outcomes: Outcomes, parts: int = 4) -> list[Estimate]:
    """The share of equal answers in each of `parts` equal parts of the examples, from those of
    which the dense model is least confident to those of which it is most.

    Examples of one confidence are parted in the order of the split.

    Raises:
        ValueError: the outcomes have no classes or no confidences, or fewer examples than parts.
    """
    check_integer("parts", parts, least=1)
    _, dense, ours = _answers(outcomes)
    if len(outcomes) < parts:
        raise ValueError(f"parts={parts} is more than the {len(outcomes)} examples")
    order = np.argsort(_confidence(outcomes.dense), kind="stable")
    return [_share((dense == ours)[rows], outcomes, rows) for rows in np.array_split(order, parts)]


def _answers(outcomes: Outcomes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The classes, and the answers of the dense and of the compressed model."""
    if outcomes.target is None or not has_classes(outcomes):
        raise NotDefined(
            "these outcomes have no class for each example, so no answers to compare: they are of "
            "a task whose examples are not classified one by one"
        )
    return outcomes.target, outcomes.dense[PREDICTED], outcomes.compressed[PREDICTED]


def _confidence(part: Mapping[str, np.ndarray]) -> np.ndarray:
    if CONFIDENCE not in part:
        raise ValueError(f"these outcomes hold no {CONFIDENCE!r}: measure the point again")
    return part[CONFIDENCE]


def _share(flags: np.ndarray, outcomes: Outcomes, rows: np.ndarray | None = None) -> Estimate:
    examples = outcomes.examples if rows is None else outcomes.examples[rows]
    return weighted_mean(flags.astype(np.float64), np.ones(len(flags)), examples)
