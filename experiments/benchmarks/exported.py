"""One compressed model in every runtime that its exports are for, side by side in one table.

    pip install 'lowrank[exported]'
    python -m experiments.benchmarks.exported --task sst2_minilm --out results/exported

The model is compressed once and written in every format; each runtime loads its files. What a
format does not hold is written as a dense matrix, and the table says how many layers keep their
form. All are compared with the dense model in the first runtime that takes it.

- quality: of the task, on some of its test examples, each runtime in the place of the model.
- difference: of the outputs from those of the first row with the same weights, relative.
- disk: all files of the model, without its tokenizer.
- memory: the peak of a process that has this runtime alone and runs the model three times: of the
  whole process, and above its imports. What loading imports and what compiles count too. Linux
  tells it.
- ms: of one pass, medians and quartiles of rounds in which the runtimes take turns in one process;
  with one thread by the clock of the process. The speedup is the median of the ratios in a round,
  with an interval of 90 %.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.benchmarks.exported_runtimes.cases import CASES, METHODS, RuntimeCase
from experiments.benchmarks.exported_runtimes.subject import (
    ExportedPart,
    SomeExamples,
    part_of,
)
from experiments.benchmarks.exported_runtimes.table import MeasuredRuntime, tabulate
from experiments.benchmarks.named_task import task_named
from experiments.required import REPORTS, require
from lowrank import compress
from lowrank.execution.timing import block, clock_of, threads
from lowrank.measure.environment import environment
from lowrank.model.batch import Batch
from lowrank.model.select import Select
from lowrank.point.quality import evaluate
from lowrank.records.store import check_writable
from lowrank.tasks import Task

if TYPE_CHECKING:
    from lowrank.reporting.table import Table

MEMORY = "experiments.benchmarks.exported_runtimes.memory_program"
LIBRARIES = ("onnxruntime", "compressed_tensors")
# A block of passes takes about this long.
BLOCK_SECONDS = 0.02


@dataclass(frozen=True)
class ComparedModels:
    """What is measured.

    Attributes:
        models: the task's own model and the compressed one, by whether they are compressed.
        part: of them, which is exported.
        inputs: of the part.
        folder: for files.
    """

    task: Task
    models: dict[bool, nn.Module]
    part: ExportedPart
    inputs: dict[str, Tensor]
    folder: Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line.

    Raises:
        SystemExit: no row or task is named so, or none can be measured.
    """
    require("this benchmark", "hydra", "transformers", "torchmetrics", *LIBRARIES, *REPORTS)
    options = parse(arguments)
    if not any(is_asked_for(case, options) for case in CASES):
        sys.exit(f"exported: no row's name contains --only {options.only!r}")
    if options.out is not None:
        check_writable(options.out)
    with threads(options.threads), tempfile.TemporaryDirectory() as folder:
        try:
            table, missing = compare(task_named(options.task), options, Path(folder))
        except ValueError as error:
            sys.exit(f"exported: {error}")
    print(table.to_markdown())
    for line in missing:
        print(line)
    if options.out is not None:
        for path in table.save(options.out / f"{options.task}_{options.method}"):
            print(path)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--task", default="stories260k", help="a task in conf/task")
    parser.add_argument("--method", default="4bit", choices=sorted(METHODS))
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--examples", type=int, default=256, help="of which quality is measured")
    parser.add_argument("--batch", type=int, default=1, help="examples that are timed together")
    parser.add_argument("--rounds", type=int, default=20, help="in which all take turns")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for tables")
    return parser.parse_args(arguments)


def is_asked_for(case: RuntimeCase, options: argparse.Namespace) -> bool:
    """Whether the name of the row contains ``--only``."""
    return options.only.lower() in case.name.lower()


def compare(task: Task, options: argparse.Namespace, folder: Path) -> tuple[Table, list[str]]:
    """The table, and a line for each row that is not in it.

    Raises:
        ValueError: no row can be measured.
    """
    dense = task.model().requires_grad_(False)
    where = Select(kinds="Linear", embeddings=False, last=False)
    small = compress(dense, METHODS[options.method], where=where).model
    test = SomeExamples(task.split("test"), options.examples)
    part, inputs = part_of(dense, task, Batch(task.example(options.batch)))
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, folder / "inputs")
    subject = ComparedModels(task, {False: dense, True: small}, part, inputs, folder)
    measured, missing = [], []
    for case in (case for case in CASES if is_asked_for(case, options)):
        try:
            measured.append(made(case, subject, options))
        except ValueError as error:
            missing.append(f"missing: {case.name}: {error}")
    if not measured:
        raise ValueError("\n".join(["no row can be measured", *missing]))
    for found in measured:
        whole = part.exchanged(dense, found.run)
        evaluation = evaluate(whole, task, test, batch_size=8)
        found.quality = evaluation.metrics[task.judged_by()[0].name]
        found.memory = memory(found.case, subject, options)
        print(f"{found.case.name}: {found.quality:.4f}", file=sys.stderr, flush=True)
    take_turns(measured, inputs, options.rounds)
    return tabulate(measured, task, caption(task, small, len(test), options)), missing


def made(
    case: RuntimeCase, subject: ComparedModels, options: argparse.Namespace
) -> MeasuredRuntime:
    """The files of a row, loaded and run once.

    Raises:
        ValueError: its runtime is not installed, or its format does not hold the model.
    """
    if lacks := case.runtime.missing():
        raise ValueError(lacks)
    model = subject.part.of(subject.models[case.compressed])
    folder = subject.folder / case.folder
    written = case.write(model, folder, subject.inputs)
    run = case.runtime.load(folder, subject.part.network(subject.task), options.threads)
    with torch.inference_mode():
        outputs = torch.as_tensor(run(subject.inputs)).clone()
    return MeasuredRuntime(case, written, run, outputs)


def memory(
    case: RuntimeCase, subject: ComparedModels, options: argparse.Namespace
) -> dict[str, int | None]:
    """The memory of a process with this runtime alone; see `memory_program`.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    described = subject.part.network(subject.task) is None
    part = subject.part.of(subject.models[False])
    request = {
        "class": type(case.runtime).__name__,
        "fields": asdict(case.runtime),  # type: ignore[call-overload]
        "folder": str(subject.folder / case.folder),
        "inputs": str(subject.folder / "inputs"),
        "modules": [*case.runtime.libraries, *[type(part).__module__] * case.runtime.builds],
        "place": subject.part.place,
        "task": "" if described or not case.runtime.builds else options.task,
        "threads": options.threads,
    }
    path = subject.folder / "request.json"
    path.write_text(json.dumps(request), "utf-8")
    command = [sys.executable, "-m", MEMORY, str(path)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said.splitlines()[-1])


@torch.inference_mode()
def take_turns(measured: Sequence[MeasuredRuntime], inputs: dict[str, Tensor], rounds: int) -> None:
    """Time all rows in turns, forwards and backwards, so that a busy machine slows all of them."""
    clock = clock_of(torch.device("cpu"))
    passes = []
    for found in measured:
        found.run(inputs)
        once = block(found.run, inputs, 1, clock)  # type: ignore[arg-type]
        passes.append(max(1, round(BLOCK_SECONDS / max(once, 1e-9))))
    for number in range(rounds):
        turns = list(zip(measured, passes, strict=True))
        for found, count in turns if number % 2 == 0 else reversed(turns):
            found.run(inputs)
            found.seconds.append(block(found.run, inputs, count, clock))  # type: ignore[arg-type]


def caption(task: Task, model: nn.Module, examples: int, options: argparse.Namespace) -> str:
    """The caption of the table."""
    facts = environment()
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "transformers", "cpu"))
    metric = task.judged_by()[0].name
    return (
        f"{task.architecture} on {task.name}, its linear layers by "
        f"{METHODS[options.method]}: {metric} on {examples} test examples, difference of outputs "
        f"from the first row of the same weights, bytes of the files, peak memory of a process, "
        f"time of a batch of {options.batch} on {options.threads} thread(s), median and quartiles "
        f"of {options.rounds} rounds, and speedup over the first row. Made by "
        f"`python -m experiments.benchmarks.exported {shlex.join(sys.argv[1:])}` with {versions}."
    )


if __name__ == "__main__":
    main()
