"""The table of what the average hides: one row per method and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from lowrank.metrics.metric import NONE, Metric
from lowrank.records.outcomes import Outcomes
from lowrank.reporting.captions import subject
from lowrank.reporting.fidelity.answers import (
    Recall,
    agreement,
    agreement_by_confidence,
    calibration,
    changed_answers,
    continuations,
    has_classes,
    recalls,
)
from lowrank.reporting.fidelity.picked import PickedPoint, over_records, picked
from lowrank.reporting.fidelity.rows import numbers, texts
from lowrank.reporting.table import Table, no_bold
from lowrank.statistics.estimates import Estimate, weighted_mean

if TYPE_CHECKING:
    import pandas as pd

# The parts into which the dense model's confidence divides the examples.
PARTS = 4
LEAST, MOST = "agreement_least_confident", "agreement_most_confident"
SHARES = {
    "flipped": "flipped",
    "right_to_wrong": "right to wrong",
    "wrong_to_right": "wrong to right",
    "wrong_to_wrong": "wrong to other wrong",
    "dense_ece": "ECE dense",
    "ece": "ECE",
    "ece_mass": "ECE, equal mass",
    "ece_change": "ECE change",
    LEAST: "agree, least confident quarter",
    MOST: "agree, most confident quarter",
    "equal_tokens": "equal tokens",
}
SHOWN = (
    *(Metric(name, title, f"{title} (%)", "percent") for name, title in SHARES.items()),
    Metric("kl", "KL(dense ‖ compressed)", "KL (nats)"),
    Metric("loss_change", "loss, compressed − dense", "loss change"),
    Metric("common_prefix", "tokens before the first that differs", "common prefix (tokens)"),
)
# In the order of the columns; what only CSV holds is left out.
COLUMNS = (
    *("flipped", "right_to_wrong", "wrong_to_right", "wrong_to_wrong", "kl", "loss_change"),
    *("dense_ece", "ece", LEAST, MOST, "equal_tokens", "common_prefix"),
)
CLASSES = {"lowest_recall": "lowest recall (%)", "largest_fall": "largest fall of recall (points)"}


def fidelity_table(
    frame: pd.DataFrame,
    metric: str | None = None,
    size: str = "compression_ratio",
    steps: Sequence[float] | None = None,
) -> Table:
    """What the average of a metric hides, for each method at its picked level of each size.

    From the outcomes of single examples on record; no model runs. Shares of flipped answers and
    how they split, KL(dense ‖ compressed), expected calibration errors, the class of the lowest
    recall and that whose recall fell most, and the agreement where the dense model is least and
    most confident. Tasks whose examples have no single class have what their outcomes define.
    Numbers are means over the seeds ± their standard error over the examples.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        metric: by which levels are picked; that by which the task judges, if not given.
        size: a ratio, such as ``compression_ratio``, or ``layers_bits_per_weight``.
        steps: the sizes; as in `lowrank.reporting.tables.summary_table`, if not given.

    Raises:
        ValueError: as `lowrank.reporting.tables.summary_table`; or a record whose outcomes are not
            beside it.
    """
    import pandas as pd

    points, how = picked(frame, metric, size, steps)
    rows = [_row(point) for point in points]
    named = {one.name: one for one in SHOWN}
    held = [name for name in COLUMNS if any(name in found for found, _ in rows)]
    values, cells = [], []
    for point, (found, classes) in zip(points, rows, strict=True):
        value = {"family": point.family, **point.labels, size: point.measured, **numbers(found)}
        cell = {**point.labels, **texts({name: named[name] for name in held}, found)}
        for name, (number, one) in classes.items():
            value |= {f"{name}_class": number, **numbers({name: one})}
            if name == "largest_fall" and one.value <= 0:
                continue  # No class fell.
            cell[CLASSES[name]] = f"{number}: {named['ece'].text(one.value, one.error)}"
        values.append(value)
        cells.append(cell)
    cells = pd.DataFrame(cells).fillna(NONE)
    best = no_bold(cells)
    examples = len(points[0].outcomes[0]) if points else 0
    caption = (
        f"{subject(frame)}: what the average hides, on {examples} examples of the test split. "
        f"Mean over the seeds ± standard error over the examples. {how}{_words(held, points)}"
    )
    return Table(pd.DataFrame(values), cells, best, caption, labels=3)


def statistics(outcomes: Outcomes) -> dict[str, Estimate]:
    """All that outcomes say of a pair of models, classes apart, by name."""
    found = agreement(outcomes)
    if has_classes(outcomes):
        found |= changed_answers(outcomes) | calibration(outcomes)
        if len(outcomes) >= PARTS:
            parts = agreement_by_confidence(outcomes, PARTS)
            found |= {LEAST: parts[0], MOST: parts[-1]}
    return found | _changes(outcomes) | continuations(outcomes)


def _changes(outcomes: Outcomes) -> dict[str, Estimate]:
    if "loss" not in outcomes.dense or "loss" not in outcomes.compressed:
        return {}
    both = outcomes.compressed["loss"] - outcomes.dense["loss"]
    return {"loss_change": weighted_mean(both, outcomes.weights, outcomes.examples)}


def _row(point: PickedPoint) -> tuple[dict[str, Estimate], dict[str, tuple[int, Estimate]]]:
    """The statistics of a point, and its extreme classes with their numbers."""
    numbers = over_records([statistics(one) for one in point.outcomes])
    if not all(has_classes(one) for one in point.outcomes):
        return numbers, {}
    own = [recalls(one) for one in point.outcomes]
    if not set.intersection(*map(set, own)):
        return numbers, {}
    lowest = _extreme(own, "compressed", min)
    fallen = _extreme(own, "fall", max)
    return numbers, {"lowest_recall": lowest, "largest_fall": fallen}


def _extreme(
    own: Sequence[Mapping[int, Recall]], name: str, extreme: Callable[..., int]
) -> tuple[int, Estimate]:
    """The class with the extreme value, of those that occur for all seeds."""
    means: Mapping[int, Estimate] = over_records(
        [{number: getattr(one, name) for number, one in each.items()} for each in own]
    )
    number = extreme(means, key=lambda one: means[one].value)
    return number, means[number]


def _words(held: Sequence[str], points: Sequence[PickedPoint]) -> str:
    """Sentences on the columns that need one."""
    said = ""
    if "equal_tokens" in held:
        texts = next(
            one.continuations
            for point in points
            for one in point.outcomes
            if one.continuations is not None
        )
        said += (
            " Equal tokens and common prefix: of what both models write after "
            f"{len(texts.prompts)} test prompts, {texts.written} tokens each, the likeliest each "
            "time; errors over the prompts."
        )
    if "right_to_wrong" in held:
        said += (
            " Right to wrong and its like are shares of all examples, and add up to flipped. ECE: "
            "expected calibration error of the top answer in 15 bins of equal width. The class of "
            "an extreme recall is chosen on the same examples, which makes it more extreme."
        )
    return said
