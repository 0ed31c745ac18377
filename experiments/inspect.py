"""Pictures of the inside of a saved model: `python -m experiments.inspect --help` says how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.composed import composed, on_one_line
from experiments.output import read_by_others
from experiments.required import REPORTS, require
from lowrank.numerics.checks import check_integer
from lowrank.records import store
from lowrank.records.columns import level_text
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
    """Draw what can be drawn of the model of ``config.record``, and say what is left out; of a
    voice also write the sound, dense and compressed.

    Raises:
        ValueError: the record names no model beside it, its task is not known here (see
            `trusted_task`), or an option cannot be.
    """
    import lowrank
    from experiments.known_tasks import task_of
    from lowrank.inspection.attention import check_row
    from lowrank.inspection.directions import site_of
    from lowrank.reporting import plots

    chosen = options(config)
    path = Path(chosen.record)
    record = read(path)
    name = MODEL.named(record)
    if name is None or not MODEL.is_kept(record, path.parent):
        raise ValueError(f"{path} has no model beside it: measure its point with save=all")
    task = task_of(record)
    check_row(chosen.row, task)
    out = Path(chosen.out) if chosen.out else path.parent / "figures"
    store.check_writable(out)
    dense = task.model()
    if chosen.layer is not None:
        site_of(dense, chosen.layer)  # A misspelt name is found before anything is drawn.
    both = dense, lowrank.load(path.parent / name, dense)
    for kind, draw in pictures(both, task, chosen, subject(record)):
        try:
            figure = draw()
        except ValueError as error:
            print(f"no picture of {kind}: {on_one_line(error)}")
            continue
        for written in plots.save(figure, out / f"{path.stem}-{kind}"):
            print(written)
    for kind, model in zip(("dense", "compressed"), both, strict=True):
        for written in task.write_example(model, chosen.row, out / f"{path.stem}-{kind}"):
            print(written)


@dataclass(frozen=True)
class Chosen:
    """The fields of conf/inspect/inspect.yaml, which says what each is.

    Raises:
        ValueError: one of them cannot be; the text names it.
    """

    record: str
    out: str | None
    layer: str | None
    directions: int
    examples: int
    row: int

    def __post_init__(self) -> None:
        if not isinstance(self.record, str) or not self.record:
            raise ValueError(f"record={self.record!r} must be the JSON file of a measured point")
        for name in ("out", "layer"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"{name}={value!r} must be a text, or null")
        # Similarity is defined from four examples on.
        for name, least in (("directions", 1), ("examples", 4), ("row", 0)):
            check_integer(name, getattr(self, name), least=least)


def options(config: DictConfig) -> Chosen:
    """The options of the program.

    Raises:
        ValueError: `record` is not given, or an option cannot be.
    """
    from omegaconf import OmegaConf

    if OmegaConf.is_missing(config, "record"):
        raise ValueError(
            "record=<file> is not given: name the JSON of a point that was measured with save=all"
        )
    known = [one.name for one in fields(Chosen)]
    unknown = [str(name) for name in config if name not in known]
    if unknown:
        raise ValueError(f"there is no option {unknown[0]!r}: there are {', '.join(known)}")
    return Chosen(**{name: config[name] for name in known})


def subject(record: Mapping[str, Any]) -> str:
    """What model it is: task, architecture, method with its level, size and seed."""
    level = "" if record["level"] is None else f" {level_text(record['level'])}"
    ratio = record["ratios"]["compression_ratio"]
    return (
        f"{record['task']}, {record['model']}, {record['method']}{level}, {ratio:.3g}× smaller, "
        f"seed {record['seed']}"
    )


def pictures(
    both: tuple[nn.Module, nn.Module], task: Task, chosen: Chosen, words: str
) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The pictures of a dense and a compressed model, each with the end of its name.

    Args:
        words: what model it is, for the titles.
    """
    from lowrank import inspection
    from lowrank.records.outcomes import of_record
    from lowrank.reporting import plots

    dense, small = both

    def maps() -> Figure:
        first, second = (inspection.attention_maps(model, task, chosen.row) for model in both)
        return plots.attention_figure(
            first, second, f"attention on test example {chosen.row}, mean over the heads\n{words}"
        )

    def similar() -> Figure:
        found = inspection.layer_similarity(dense, small, task, chosen.examples)
        for name, reason in found.left_out.items():
            print(f"similarity: without {name}: {reason}")
        return plots.similarity_figure(found, f"outputs of layers, dense and compressed\n{words}")

    def directions() -> Figure:
        counts = chosen.directions, chosen.examples
        found = inspection.direction_drops(dense, task, chosen.layer, *counts)
        title = f"singular directions of the dense model's {found.layer}"
        return plots.direction_figure(found, f"{title}\n{task.name}, {task.architecture}")

    def mask() -> Figure:
        kept = inspection.kept_images(dense, small, task)
        return plots.mask_figure(
            kept, f"weights that the first layer keeps, and their number\n{words}"
        )

    def heads() -> Figure:
        kept = inspection.kept_of_heads(dense, small)
        return plots.heads_figure(kept, f"weights that heads of attention keep\n{words}")

    def spectra() -> Figure:
        weights = inspection.matrices(dense, small)
        return plots.kept_spectra(*weights, f"singular values of each weight\n{words}")

    def tokens() -> Figure:
        outcomes = of_record(chosen.record)
        return plots.token_figure(outcomes, f"change of the loss by groups of tokens\n{words}")

    yield "spectra", spectra
    yield "similarity", similar
    yield "directions", directions
    yield "mask", mask
    yield "heads", heads
    yield "attention", maps
    yield "tokens", tokens


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
