"""The table of methods by norms, which shows the gain from knowing more of a layer's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import Metric
from lowrank.records.columns import level_text, measure
from lowrank.reporting.captions import (
    coverage,
    dense_words,
    in_unit,
    over_seeds,
    sentence,
    subject,
    with_error,
)
from lowrank.reporting.curves import NORMS, first_measure, in_several_norms, norms_in_order
from lowrank.reporting.entries import (
    DAGGER,
    ChosenLevel,
    Mark,
    choose,
    marked,
    said_of_choice,
    said_of_marks,
)
from lowrank.reporting.errors import dense_errors, said, summarise_with_errors
from lowrank.reporting.examples import ERRORS
from lowrank.reporting.table import Table

if TYPE_CHECKING:
    import pandas as pd

ROW = ["family", "level"]


def norm_table(
    frame: pd.DataFrame, metric: str | None = None, size: str = "layers_bits_per_weight"
) -> Table:
    """One row per family and level, one column per norm.

    Bold are all entries that cannot be told from the best of their row, as in
    `lowrank.reporting.tables.summary_table`. The last column says whether no entry is worse than
    one to its left, of the norms identity, diagonal and full; of other norms nothing is claimed.
    Where several methods of a family share a norm, the entry is that of them which is best at that
    level on the validation split, and named; without a validation value it is the best on the test
    split, and marked †. Families and levels that were measured in one norm only are left out.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        metric: a measure of quality that the dense model has too; that by which the task judges,
            if not given.
        size: what the entries of a row cost; least and most, where they differ.

    Returns:
        The table. In CSV each norm has, after its name, ``_std`` (sample standard deviation over
        seeds), ``_se``, ``_low`` and ``_high`` (standard error over test examples and 95 %
        interval), ``_p`` (that no other of the row is better, corrected), ``_chosen_on``,
        ``_method`` and the size.

    Raises:
        ValueError: as `summarise`; or nothing was measured in two norms at a level.
    """
    import pandas as pd

    compared = in_several_norms(frame)
    metric = metric or first_measure(compared)
    judged = [name for name in (f"validation_{metric}",) if name in compared]
    points = summarise_with_errors(compared, [metric, size, *judged])
    shown, small = measure(frame, metric), measure(frame, size)
    entries = _chosen(points, shown)
    marks = marked(compared, points, entries, shown)
    best = _best(points, entries, marks)
    spreads = [name for name in (f"{metric}{end}" for end in ERRORS) if name in best]
    columns = (metric, f"{metric}_std", *spreads, "p", "is_best", "chosen_on", "method", size)
    parts = _by_norm(best, columns, small.sign * best[size])
    means, sizes = parts[metric], parts[size]
    names = means.index.to_frame(index=False)
    worse = [_worse(row, shown) for row in means.to_dict("records")]
    texts = _texts(parts, metric, shown, _shared(points))
    cells = pd.concat([names.assign(level=names["level"].map(level_text)), texts], axis=1)
    ends = zip(sizes.min(axis=1), sizes.max(axis=1), strict=True)
    cells[small.heading] = ["–".join(dict.fromkeys(map(small.text, pair))) for pair in ends]
    cells["improves"] = [f"no: {', '.join(found)}" if found else "yes" for found in worse]
    bold = parts["is_best"].reset_index(drop=True).eq(True)
    bold = bold.reindex(columns=cells.columns, fill_value=False)
    flat = _flat(
        parts,
        {"": metric, "_std": f"{metric}_std"}
        | {name.removeprefix(metric): name for name in spreads}
        | {"_p": "p", "_chosen_on": "chosen_on", "_method": "method", f"_{size}": size},
    )
    values = pd.concat([names, flat], axis=1).assign(improves=[not found for found in worse])
    held = points.loc[[entry.point for entry in entries.values()]]
    caption = (
        f"{subject(compared)}: {in_unit(shown)}, of the methods of each family by the norm in "
        f"which error counts; {small.words}. The last column: no number is worse than one to its "
        f"left, of {', '.join(NORMS)}; otherwise which is. Where methods share a family and a "
        f"norm, one is shown and named.{said_of_choice(entries.values(), 'methods')}"
        f"{sentence(coverage(compared))} {over_seeds(held)}{said(held, [metric])}"
        f"{said_of_marks(marks.values(), 'row')} "
        f"{dense_words(frame, metric, shown, dense_errors(frame, metric)[0])}"
    )
    return Table(values, cells, bold, caption, labels=len(ROW))


def _chosen(points: Any, shown: Metric) -> dict[tuple[str, Any], ChosenLevel]:
    """The point of each norm and each family and level, of those that have two norms or more."""
    held = points[points[shown.name].notna()]
    held = held[held.groupby(ROW)["norm"].transform("nunique") > 1]
    if held.empty:
        raise ValueError(
            "no family was measured in two norms at one level: sweep the methods of a family over "
            "the same levels to set them side by side"
        )
    return {
        (norm, (family, level)): choose(rows, shown)
        for (family, level, norm), rows in held.groupby([*ROW, "norm"])
    }


def _best(points: Any, entries: Mapping[Any, ChosenLevel], marks: Mapping[Any, Mark]) -> Any:
    """The rows of the chosen points, with what is said of them."""
    best = points.loc[[entry.point for entry in entries.values()]]
    return best.assign(
        chosen_on=[entry.chosen_on for entry in entries.values()],
        p=[marks[place].p for place in entries],
        is_best=[marks[place].is_best for place in entries],
    )


def _by_norm(best: Any, names: Sequence[str], strength: Any) -> dict[str, Any]:
    """Each of the columns `names` as a frame of its own: a row per family and level, from weak to
    strong, and a column per norm.
    """
    order = best.assign(strength=strength).groupby(ROW)["strength"].mean().reset_index()
    rows = order.sort_values(["family", "strength"]).set_index(ROW).index
    norms = norms_in_order(best["norm"])
    return {
        name: best.pivot(index=ROW, columns="norm", values=name).loc[rows, norms] for name in names
    }


def _flat(parts: Mapping[str, Any], columns: Mapping[str, str]) -> pd.DataFrame:
    """All parts in one frame, norm by norm; `columns`: end of the name → part."""
    import pandas as pd

    norms = list(next(iter(parts.values())))
    return pd.DataFrame(
        {
            f"{norm}{end}": parts[name][norm].to_list()
            for norm in norms
            for end, name in columns.items()
        }
    )


def _shared(points: pd.DataFrame) -> set[tuple[str, str]]:
    """The families and norms that several methods share."""
    counts: Any = points.groupby(["family", "norm"])["method"].nunique()
    return set(counts[counts > 1].index)


def _texts(
    parts: Mapping[str, Any], metric: str, shown: Metric, shared: set[tuple[str, str]]
) -> pd.DataFrame:
    import pandas as pd

    errors = parts.get(f"{metric}_se")

    def text(norm: str, at: Any) -> str:
        error = float("nan") if errors is None else errors.at[at, norm]
        spread, method = parts[f"{metric}_std"].at[at, norm], parts["method"].at[at, norm]
        number = with_error(shown, parts[metric].at[at, norm], spread, error)
        if (at[0], norm) in shared and method == method:
            number = f"{number} ({method})"
        return number + DAGGER if parts["chosen_on"].at[at, norm] == "test" else number

    rows = parts[metric].index
    return pd.DataFrame({norm: [text(norm, at) for at in rows] for norm in parts[metric]})


def _worse(row: dict[Any, float], shown: Metric) -> list[str]:
    """The norms that did worse than one before them in `NORMS`, of those that were measured."""
    measured: list[float] = []
    worse = []
    for norm in NORMS:
        value = row.get(norm, float("nan"))
        if value != value:
            continue
        if not all(shown.as_good(value, before) for before in measured):
            worse.append(norm)
        measured.append(value)
    return worse
