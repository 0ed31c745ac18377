"""The table of methods by norms, which shows the gain from knowing more of a layer's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lowrank.metrics.metric import Metric
from lowrank.records.columns import level_text, measure
from lowrank.reporting.captions import coverage, dense_words, in_unit, over_seeds, sentence, subject
from lowrank.reporting.curves import (
    NORMS,
    first_measure,
    in_several_norms,
    norms_in_order,
    summarise,
)
from lowrank.reporting.table import Table

if TYPE_CHECKING:
    import pandas as pd

ROW = ["family", "level"]


def norm_table(
    frame: pd.DataFrame, metric: str | None = None, size: str = "layers_bits_per_weight"
) -> Table:
    """One row per family and level, one column per norm, the best of a row in bold.

    The last column says whether no entry is worse than one to its left, of the norms identity,
    diagonal and full; of other norms nothing is claimed. Where several methods of a family share a
    norm, the entry is the best of them at that level, and named. Families and levels that were
    measured in one norm only are left out.

    Args:
        frame: rows of `lowrank.records.store.load`, of one task, model and recovery.
        metric: a measure of quality that the dense model has too; that by which the task judges,
            if not given.
        size: what the entries of a row cost; least and most, where they differ.

    Raises:
        ValueError: as `summarise`; or nothing was measured in two norms at a level.
    """
    import pandas as pd

    compared = in_several_norms(frame)
    metric = metric or first_measure(compared)
    points = summarise(compared, [metric, size])
    shown, small = measure(frame, metric), measure(frame, size)
    best = _best(points, metric, shown)
    parts = _by_norm(best, (metric, f"{metric}_std", "method", size), small.sign * best[size])
    means, sizes = parts[metric], parts[size]
    names = means.index.to_frame(index=False)
    worse = [_worse(row, shown) for row in means.to_dict("records")]
    texts = _texts(parts, metric, shown, _shared(points))
    cells = pd.concat([names.assign(level=names["level"].map(level_text)), texts], axis=1)
    ends = zip(sizes.min(axis=1), sizes.max(axis=1), strict=True)
    cells[small.heading] = ["–".join(dict.fromkeys(map(small.text, pair))) for pair in ends]
    cells["improves"] = [f"no: {', '.join(found)}" if found else "yes" for found in worse]
    ranked = shown.sign * means.reset_index(drop=True)
    bold = ranked.eq(ranked.max(axis=1), axis=0).reindex(columns=cells.columns, fill_value=False)
    flat = _flat(
        parts, {"": metric, "_std": f"{metric}_std", "_method": "method", f"_{size}": size}
    )
    values = pd.concat([names, flat], axis=1).assign(improves=[not found for found in worse])
    caption = (
        f"{subject(compared)}: {in_unit(shown)}, of the methods of each family by the norm in "
        f"which error counts; {small.words}. The last column: no entry is worse than one to its "
        f"left, of {', '.join(NORMS)}; otherwise which is. Where methods share a family and a "
        f"norm, the best is shown and named.{sentence(coverage(compared))} {over_seeds(points)} "
        f"{dense_words(frame, metric, shown)}"
    )
    return Table(values, cells, bold, caption, labels=len(ROW))


def _best(points: Any, metric: str, shown: Metric) -> pd.DataFrame:
    """The best point of each family, level and norm, of the levels that have two norms."""
    ranked = points[points[metric].notna()].assign(rank=shown.sign * points[metric])
    best = ranked.sort_values("rank", ascending=False).drop_duplicates([*ROW, "norm"])
    best = best[best.groupby(ROW)["norm"].transform("count") > 1]
    if best.empty:
        raise ValueError(
            "no family was measured in two norms at one level: sweep the methods of a family over "
            "the same levels to set them side by side"
        )
    return best


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

    def text(norm: str, at: Any) -> str:
        number = shown.text(parts[metric].at[at, norm], parts[f"{metric}_std"].at[at, norm])
        method = parts["method"].at[at, norm]
        return f"{number} ({method})" if (at[0], norm) in shared and method == method else number

    rows = parts[metric].index
    return pd.DataFrame({norm: [text(norm, at) for at in rows] for norm in parts[metric]})


def _worse(row: dict[Any, float], shown: Metric) -> list[str]:
    """The norms that did worse than one before them in `NORMS`, of those that were measured."""
    best, worse = float("-inf"), []
    for norm in NORMS:
        quality = shown.sign * row.get(norm, float("nan"))
        if quality < best:
            worse.append(norm)
        best = max(best, quality) if quality == quality else best
    return worse
