"""The table of losses by groups of the predictions, such as rare tokens and late positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lowrank.metrics.metric import Metric
from lowrank.records.outcomes import Outcomes
from lowrank.records.parts import Breakdown
from lowrank.reporting.captions import subject
from lowrank.reporting.fidelity.answers import NotDefined
from lowrank.reporting.fidelity.picked import PickedPoint, over_records, picked
from lowrank.reporting.fidelity.rows import numbers, texts
from lowrank.reporting.table import Table, no_bold
from lowrank.statistics.estimates import Estimate, weighted_mean

if TYPE_CHECKING:
    import pandas as pd

SHARE = Metric("share", "share of the predictions", "predictions (%)", "percent")
LOSSES = {
    "dense": Metric("dense", "loss of the dense model", "dense loss"),
    "compressed": Metric("compressed", "loss", "loss"),
    "change": Metric("change", "loss, compressed − dense", "change"),
}


def loss_table(
    frame: pd.DataFrame,
    metric: str | None = None,
    size: str = "compression_ratio",
    steps: Sequence[float] | None = None,
) -> Table:
    """The loss of the predictions of each group in the dense and in the compressed model, and the
    change: one row per picked level and group, at the first size for which it is picked.

    The task says by what its loss is broken down: a language model's by the rank of the token in
    the train split, and by the number of tokens before it. Numbers are means over the seeds ± their
    standard error over the examples; that of the change is paired. A group without predictions has
    no row.

    Args:
        frame, metric, size, steps: as in `lowrank.reporting.fidelity.fidelity_table`.

    Raises:
        NotDefined: the records have no such losses.
        ValueError: as `fidelity_table`.
    """
    import pandas as pd

    points, how = picked(frame, metric, size, steps)
    values, cells, titles = [], [], {}
    once: dict[tuple[str, str, str], PickedPoint] = {}
    for one in points:
        once.setdefault((one.family, one.method, one.level), one)
    for point in once.values():
        for by, breakdown in shared_breakdowns(point.outcomes).items():
            titles[by] = breakdown.title
            counts = np.sum(
                [one.breakdowns[by].counts.sum(axis=0) for one in point.outcomes], axis=0
            )
            own = [loss_changes(one.breakdowns[by], one.examples) for one in point.outcomes]
            means = {name: over_records([one[name] for one in own]) for name in LOSSES}
            for label in means["change"]:
                group = {name: means[name][label] for name in LOSSES}
                labels = {**point.labels, "by": by, "group": label}
                share = counts[breakdown.labels.index(label)] / counts.sum()
                value = {"family": point.family, **labels, "share": share}
                values.append({**value, **numbers(group)})
                cell = {**labels, SHARE.heading: SHARE.text(share)}
                cells.append({**cell, **texts(LOSSES, group)})
    if points and not cells:
        raise NotDefined("these outcomes break no loss down by groups of predictions")
    shown = pd.DataFrame(cells)
    best = no_bold(shown)
    explained = "; ".join(f"{by}: {title}" for by, title in titles.items())
    caption = (
        f"{subject(frame)}: the loss by groups of the predictions ({explained}). Mean over the "
        "seeds ± standard error over the examples. A level that is picked for several sizes has "
        f"rows at the first. {how}"
    )
    return Table(pd.DataFrame(values), shown, best, caption, labels=5)


def shared_breakdowns(outcomes: Sequence[Outcomes]) -> Mapping[str, Breakdown]:
    """The breakdowns that all of these have, with the same groups."""
    first = outcomes[0].breakdowns
    return {
        name: one
        for name, one in first.items()
        if all(
            name in other.breakdowns and other.breakdowns[name].labels == one.labels
            for other in outcomes
        )
    }


def loss_changes(breakdown: Breakdown, examples: np.ndarray) -> dict[str, dict[str, Estimate]]:
    """The mean losses "dense" and "compressed", and their paired "change", by group: means over its
    predictions. Groups without any are left out.

    Args:
        examples: as `Outcomes.examples`.
    """
    parts = {
        "dense": breakdown.dense,
        "compressed": breakdown.compressed,
        "change": breakdown.compressed - breakdown.dense,
    }
    counts = breakdown.counts
    held = np.flatnonzero(counts.sum(axis=0)).tolist()
    return {
        name: {
            breakdown.labels[group]: weighted_mean(losses[:, group], counts[:, group], examples)
            for group in held
        }
        for name, losses in parts.items()
    }
