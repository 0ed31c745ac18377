"""Pictures of the inside of a saved model: `python -m experiments.inspect --help` says how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.composed import composed, on_one_line
from experiments.output import read_by_others
from experiments.required import REPORTS, require
from lowrank.records import store
from lowrank.records.companions import MODEL
from lowrank.records.files import record_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig
    from torch import nn

    from lowrank.tasks.task import Task


def main() -> None:
    """The program of the command line; an error is one line on stderr."""
    require("lowrank inspect", "hydra", *REPORTS)
    composed(inspect, "inspect")


def inspect(config: DictConfig) -> None:
    """Draw what can be drawn of the model of ``config.record``, and say what is left out.

    Raises:
        ValueError: the record names no model beside it, its task is not known here (see
            `trusted_task`), or an option cannot be.
    """
    import lowrank
    from experiments.known_tasks import task_of
    from lowrank.reporting import plots

    path = Path(str(config.record))
    record = read(path)
    name = MODEL.named(record)
    if name is None or not MODEL.is_kept(record, path.parent):
        raise ValueError(f"{path} has no model beside it: measure its point with save=all")
    task = task_of(record)
    out = Path(str(config.out)) if config.out else path.parent / "figures"
    store.check_writable(out)
    dense = task.model()
    both = dense, lowrank.load(dense, path.parent / name)
    words = f"{record['task']}, {record['model']}: {record['method']}"
    for kind, draw in pictures(both, task, config, path, words):
        try:
            figure = draw()
        except ValueError as error:
            print(f"no picture of {kind}: {on_one_line(error)}")
            continue
        for written in plots.save(figure, out / f"{path.stem}-{kind}"):
            print(written)


def pictures(
    both: tuple[nn.Module, nn.Module], task: Task, config: Any, path: Path, title: str
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The pictures of a dense and a compressed model, each with the end of its name.

    Args:
        path: of the record of the compressed one.
    """
    from lowrank import inspection
    from lowrank.records.outcomes import of_record
    from lowrank.reporting import plots

    dense, small = both

    def maps() -> Figure:
        first, second = (inspection.attention_maps(model, task, config.row) for model in both)
        return plots.attention_figure(first, second, title)

    def similar() -> Figure:
        found = inspection.layer_similarity(dense, small, task, config.examples)
        return plots.similarity_figure(found, title)

    def directions() -> Figure:
        counts = config.directions, config.examples
        return plots.direction_figure(
            inspection.direction_drops(dense, task, config.layer, *counts), title
        )

    yield "spectra", lambda: plots.kept_spectra(*inspection.matrices(dense, small), title)
    yield "similarity", similar
    yield "directions", directions
    yield "mask", lambda: plots.mask_figure(inspection.kept_images(dense, small, task), title)
    yield "heads", lambda: plots.heads_figure(inspection.kept_of_heads(small), title)
    yield "attention", maps
    yield "tokens", lambda: plots.token_figure(of_record(path), title)


def read(path: Path) -> dict[str, Any]:
    """The record at `path`.

    Raises:
        ValueError: it is no record of a point.
    """
    if not path.is_file():
        raise ValueError(f"record={path} is no file: give the JSON of a measured point")
    record = record_in(path.stem, path.parent)
    if record is None:
        raise ValueError(f"record={path} is no record of a measured point")
    return dict(record)


if __name__ == "__main__":
    with read_by_others():
        main()
