"""The table of the classes: the recall of each, before and after the compression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lowrank.metrics.metric import Metric
from lowrank.reporting.captions import subject
from lowrank.reporting.fidelity.answers import recalls
from lowrank.reporting.fidelity.picked import over_records, picked
from lowrank.reporting.fidelity.rows import numbers, texts
from lowrank.reporting.table import Table, no_bold

if TYPE_CHECKING:
    import pandas as pd

PARTS = {
    "dense": Metric("dense", "recall of the dense model", "dense recall (%)", "percent"),
    "compressed": Metric("compressed", "recall", "recall (%)", "percent"),
    "change": Metric("change", "recall, compressed − dense", "change (points)", "percent"),
}


def class_table(
    frame: pd.DataFrame,
    metric: str | None = None,
    size: str = "compression_ratio",
    steps: Sequence[float] | None = None,
) -> Table:
    """The recall of each class in the dense and in the compressed model, and the change: one row
    per size, method and class.

    Numbers are means over the seeds ± their standard error over the examples of the class; that of
    the change is paired.

    Args:
        frame, metric, size, steps: as in `lowrank.reporting.fidelity.fidelity_table`.

    Raises:
        ValueError: as `fidelity_table`, or the examples have no single class.
    """
    import pandas as pd

    points, how = picked(frame, metric, size, steps)
    values, cells = [], []
    for point in points:
        own = [recalls(one) for one in point.outcomes]
        parts = {
            name: over_records([{n: getattr(r, name) for n, r in one.items()} for one in own])
            for name in PARTS
        }
        for number in parts["change"]:
            recall = {name: parts[name][number] for name in PARTS}
            values.append(
                {"family": point.family, **point.labels, "class": number, **numbers(recall)}
            )
            cells.append({**point.labels, "class": str(number), **texts(PARTS, recall)})
    if not cells:
        raise ValueError("no class occurs among the test examples of all seeds of a point")
    shown = pd.DataFrame(cells)
    best = no_bold(shown)
    caption = (
        f"{subject(frame)}: the recall of each class. Mean over the seeds ± standard error over "
        f"the examples of the class. {how}"
    )
    return Table(pd.DataFrame(values), shown, best, caption, labels=4)
