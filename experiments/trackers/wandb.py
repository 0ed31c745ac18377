"""Weights & Biases: a run for each point, and one for the sweep with its records as an artifact."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.trackers.contents import record_files, shown
from experiments.trackers.tracker import Record, Tracker, labels_of, name_of, numbers_of
from lowrank.files.extras import need


@dataclass(frozen=True)
class WandbTracker(Tracker):
    """Weights & Biases.

    The runs of a sweep are one group. The config of a point is that of its record, with what tells
    it from others under ``point``, such as ``point.method``, by which runs are grouped and
    filtered; its measures are the summary. The last run, of the job type ``sweep``, has the curves
    of every measure, the table of the summary and that of all points, the figure of quality against
    size, and all records with the outcomes of their examples as an artifact of the type
    ``records``.

    Args:
        mode: ``online``, or ``offline`` to write files that `wandb sync` sends later.
        project: the project's name there.
        folder: where wandb keeps its files.
    """

    mode: Literal["online", "offline"]
    project: str
    folder: str

    def __post_init__(self) -> None:
        if self.mode not in ("online", "offline"):
            raise ValueError(f"mode={self.mode!r} must be online or offline; for none, tracker=off")
        need("this tracker", "wandb", instead="take tracker=off")

    def log_point(self, record: Record, sweep: str) -> None:
        import wandb

        layers = record["layers"]
        columns = list(layers[0])
        rows: list[Any] = [[_cell(layer[column]) for column in columns] for layer in layers]
        config = {**record["config"], "point": labels_of(record)}
        with self._run(sweep, name_of(record), "point", config) as run:
            table = wandb.Table(columns=columns, data=rows)
            run.log(numbers_of(record) | {"layers": table}, step=0)

    def log_sweep(self, folder: str, sweep: str) -> None:
        import wandb

        with tempfile.TemporaryDirectory() as pictures, self._run(sweep, sweep, "sweep", {}) as run:
            for part in shown(folder, Path(pictures)):
                for kind, table in (("summary", part.summary), ("points", part.points)):
                    run.log({f"tables/{part.name}/{kind}": wandb.Table(dataframe=table.values)})
                for metric, lines in part.curves.items():
                    chart = wandb.plot.line_series(
                        xs=[x for x, _ in lines.values()],
                        ys=[y for _, y in lines.values()],
                        keys=list(lines),
                        title=f"{part.name}: {metric} against {part.size}, mean over seeds",
                        xname=part.size,
                    )
                    run.log({f"curves/{part.name}/{metric}": chart})
                picture = wandb.Image(str(part.figure), caption=part.summary.caption)
                run.log({f"figures/{part.name}": picture})
            # The letters that names of artifacts may have.
            plain = re.sub(r"[^\w.-]", "_", sweep, flags=re.ASCII)
            artifact = wandb.Artifact(f"{plain}-records", "records")
            for path in record_files(folder):
                artifact.add_file(str(path))
            run.log_artifact(artifact)

    @contextmanager
    def _run(self, sweep: str, name: str, kind: str, config: Record) -> Iterator[Any]:
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        with wandb.init(
            project=self.project,
            group=sweep,
            name=name,
            job_type=kind,
            config=dict(config),
            mode=self.mode,
            dir=self.folder,
            settings=settings,
        ) as run:
            yield run


def _cell(value: Any) -> Any:
    """A field of a layer's report for a table: numbers and texts as they are, lists as text."""
    return value if value is None or isinstance(value, str | int | float) else str(value)
