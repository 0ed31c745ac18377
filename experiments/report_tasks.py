"""The tables and the figure of a report over several tasks on one base."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.files.names import stems

if TYPE_CHECKING:
    import pandas as pd

    from experiments.report_options import Options


def across_tasks(chosen: Options, frame: pd.DataFrame) -> Iterator[Path]:
    """Write what all records, of several tasks on one base, say together, and print the answers.

    Raises:
        ValueError: as `lowrank.reporting.across_tasks.contest`, `scores` and `set_against`.
    """
    from lowrank.reporting import across_tasks as reporting
    from lowrank.reporting import plots
    from lowrank.reporting.across_tasks import pays, tables
    from lowrank.reporting.table import write

    if chosen.methods is not None:
        frame = frame[frame["method"].isin(chosen.methods)]  # type: ignore[assignment]
    found = reporting.scores(frame, reporting.contest(frame, chosen.metric))
    (stem,) = stems([[str(frame["model"].iloc[0]), "across-tasks"]])
    start = Path(chosen.out) / stem
    answers = {
        (method, against): pays.set_against(found, method, against)
        for method, against in pairs(chosen, [one.method for one in found.contest.contenders])
    }
    lines = [pays.sentence(found, method, of) for (method, _), of in answers.items()]
    summary = tables.summary(frame, found)
    print(summary.to_markdown())
    yield from summary.save(start)
    yield from tables.each(frame, found).save(f"{start}-each")
    yield from plots.save(plots.tasks_figure(frame, found), start)
    if answers:
        every = [(method, one) for (method, _), of in answers.items() for one in of]
        yield from pays.table(frame, found, every).save(f"{start}-pays")
        yield write(Path(f"{start}-pays.txt"), "\n".join([*lines, ""]))
    for line in lines if chosen.compare is not None else ():
        print(line)


def pairs(chosen: Options, methods: list[str]) -> list[tuple[str, str]]:
    """The pairs (method, that it is set against): of ``compare`` the first against each other one,
    or all pairs in both orders."""
    named = [name for name in chosen.compare or () if name != "all"]
    if named:
        if len(named) < 2:
            raise ValueError(f"compare={named[0]} is one method alone: name another beside it")
        return [(named[0], other) for other in named[1:]]
    return list(itertools.permutations(dict.fromkeys(methods), 2))
