"""The tables and the figure of a report over several tasks on one base."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.files.names import stems
from lowrank.records import store

if TYPE_CHECKING:
    import pandas as pd

    from experiments.report_options import Options


def across_tasks(chosen: Options, frame: pd.DataFrame) -> list[Path]:
    """Write what all records, of several tasks on one base, say together, and print the answers.

    Returns:
        The files.

    Raises:
        ValueError: as `lowrank.reporting.across_tasks.contest`, `scores` and `set_against`; or
            `out` cannot be written.
    """
    from lowrank.reporting import across_tasks as reporting
    from lowrank.reporting import plots
    from lowrank.reporting.across_tasks import pays, tables
    from lowrank.reporting.table import write

    if chosen.methods is not None:
        known, frame = frame["method"].unique(), frame[frame["method"].isin(chosen.methods)]  # type: ignore[assignment]
        if frame.empty:
            raise ValueError(
                f"no record is of the methods {', '.join(chosen.methods)}: there are "
                f"{', '.join(sorted(known))}"
            )
    found = reporting.scores(frame, reporting.contest(frame, chosen.metric))
    answers = {
        (method, against): pays.set_against(found, method, against)
        for method, against in pairs(chosen, [one.method for one in found.contest.contenders])
    }
    lines = [pays.sentence(found, method, of) for (method, _), of in answers.items()]
    made = {"": tables.summary(frame, found), "-each": tables.each(frame, found)}
    if answers:
        every = [(method, one) for (method, _), of in answers.items() for one in of]
        made["-pays"] = pays.table(frame, found, every)
    figure = plots.tasks_figure(frame, found)
    # All that can be wrong is found before anything is written.
    store.check_writable(chosen.out)
    (stem,) = stems([[str(frame["model"].iloc[0]), "across-tasks"]])
    start = Path(chosen.out) / stem
    written = [path for end, table in made.items() for path in table.save(f"{start}{end}")]
    written += plots.save(figure, start)
    if lines:
        written.append(write(Path(f"{start}-pays.txt"), "\n".join([*lines, ""])))
    print(made[""].to_markdown())
    for line in lines if chosen.compare is not None else ():
        print(line)
    return written


def pairs(chosen: Options, methods: list[str]) -> list[tuple[str, str]]:
    """The pairs (method, that it is set against): of ``compare`` the first against each other one,
    or all pairs in both orders."""
    named = [name for name in chosen.compare or () if name != "all"]
    if named:
        if len(named) < 2:
            raise ValueError(f"compare={named[0]} is one method alone: name another beside it")
        return [(named[0], other) for other in named[1:]]
    return list(itertools.permutations(dict.fromkeys(methods), 2))
