"""Mirrors of the records in experiment trackers, such as wandb; never their only copy."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from hydra.utils import instantiate

from lowrank.files.extras import need

Record = Mapping[str, Any]


class Tracker(ABC):
    """Where records are shown besides their files."""

    @abstractmethod
    def log_point(self, record: Record, sweep: str) -> None:
        """Show one record as a run of the group `sweep`."""

    @abstractmethod
    def log_curves(self, folder: str, sweep: str) -> None:
        """Show the curves of all records in `folder`."""


@dataclass(frozen=True)
class NoTracker(Tracker):
    """Shows nothing."""

    def log_point(self, record: Record, sweep: str) -> None:
        pass

    def log_curves(self, folder: str, sweep: str) -> None:
        pass


@dataclass(frozen=True)
class WandbTracker(Tracker):
    """Weights & Biases.

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

        name = f"{record['method']} {record['level']} seed {record['seed']}"
        layers = record["layers"]
        columns = list(layers[0])
        rows: list[Any] = [[_cell(layer[column]) for column in columns] for layer in layers]
        with self._run(sweep, name, record["config"]) as run:
            for group in ("compressed", "dense", "ratios"):
                run.log({f"{group}/{name}": value for name, value in record[group].items()}, step=0)
            for latency in record["latency"]:
                prefix = f"latency/batch_{latency['batch_size']}"
                run.log({f"{prefix}/{name}": latency[name] for name in latency}, step=0)
            run.log({"layers": wandb.Table(columns=columns, data=rows)}, step=0)

    def log_curves(self, folder: str, sweep: str) -> None:
        import wandb

        from lowrank.records import store
        from lowrank.reporting import curves

        frame = store.load(folder, "*.json")
        with self._run(sweep, f"{sweep} curves", {}) as run:
            for name, rows in curves.comparisons(frame):
                metrics = curves.quality_measures(rows)
                points: Any = curves.summarise(rows, metrics)
                lines = {str(method): line for method, line in points.groupby("method")}
                for metric in metrics:
                    chart = wandb.plot.line_series(
                        xs=[line["compression_ratio"].tolist() for line in lines.values()],
                        ys=[line[metric].tolist() for line in lines.values()],
                        keys=list(lines),
                        title=f"{name}: {metric} against compression ratio, mean over seeds",
                        xname="compression ratio",
                    )
                    run.log({f"curves/{name}/{metric}": chart})

    @contextmanager
    def _run(self, sweep: str, name: str, config: Record) -> Iterator[Any]:
        import wandb

        settings = wandb.Settings(silent=True, console="off")
        with wandb.init(
            project=self.project,
            group=sweep,
            name=name,
            config=dict(config),
            mode=self.mode,
            dir=self.folder,
            settings=settings,
        ) as run:
            yield run


def _cell(value: Any) -> Any:
    """A field of a layer's report for a table: numbers and texts as they are, lists as text."""
    return value if value is None or isinstance(value, str | int | float) else str(value)


def log_point(settings: Mapping[str, Any], record: Record) -> None:
    """Show a record, which is already saved, in the tracker that `settings` name."""
    with forgiving():
        instantiate(settings["tracker"]).log_point(record, settings["sweep"])


def log_curves(settings: Mapping[str, Any]) -> None:
    """Show the curves of all records in the sweep's folder."""
    with forgiving():
        tracker = instantiate(settings["tracker"])
        tracker.log_curves(settings["results"], settings["sweep"])


@contextmanager
def forgiving() -> Iterator[None]:
    """Turn an error into a warning: the records are safe, only their mirror is not complete."""
    try:
        yield
    except Exception as error:
        print(f"warning: the tracker failed, the records are safe: {error}", file=sys.stderr)
