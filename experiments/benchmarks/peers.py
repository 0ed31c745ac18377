"""lowrank beside other libraries and papers: the same model, layers, tokens, bytes and evaluation.

    pip install 'lowrank[peers]'
    python -m venv DIR && DIR/bin/pip install llmcompressor   # pins another transformers
    python -m experiments.benchmarks.peers --llmcompressor DIR/bin/python --out results/peers

Every method compresses the linear layers of the model's blocks in the same process (llm-compressor
in a process of its own), and is judged by the matrices that it hands back, in one evaluation of the
task. A peer that is not installed leaves its rows empty, and the table says what is missing.

- bits: of everything that has to be stored for a weight, packed without gaps: codes, 16-bit scales,
  zero points; the non-zeros in 16 bits and a bitmask; factors in 16 bits. In brackets, what the
  tensors take in which the library itself keeps it, where that is something else.
- seconds: of the compression with its calibration, medians of interleaved rounds after one that is
  not timed; with the range.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from experiments.benchmarks.named_task import task_named
from experiments.benchmarks.peer_methods.cases import PeerComparison, all_cases
from experiments.benchmarks.peer_methods.llm_compressor import missing_interpreter, version
from experiments.benchmarks.peer_methods.method import Method, Outcome, Subject
from experiments.required import REPORTS, require
from lowrank.measure.environment import environment
from lowrank.model.select import Select
from lowrank.point.quality import evaluate
from lowrank.records.store import check_writable
from lowrank.tasks import hub

if TYPE_CHECKING:
    from lowrank.reporting.table import Table
    from lowrank.tasks import CausalLM

PEERS = ("torchao", "hqq")


@dataclass
class MeasuredMethod:
    """The measurements of a method.

    Attributes:
        row: the name of a row that it is in.
        missing: why it could not run; "" if it did.
        outcome: what it made of the model in its first run.
        quality: of the model with that in its layers.
        seconds: of each timed run.
    """

    row: str
    missing: str
    outcome: Outcome | None = None
    quality: float | None = None
    seconds: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line.

    Raises:
        SystemExit: there is no such task, row or environment of llm-compressor.
    """
    require("this benchmark", "hydra", "transformers", "torchmetrics", *REPORTS)
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.out is not None:
        check_writable(options.out)
    missing = missing_interpreter(options.llmcompressor)
    if options.llmcompressor is not None and missing:
        sys.exit(f"peers: {missing}")
    cases = all_cases(options.llmcompressor)
    cases = [case for case in cases if options.only.lower() in case.name.lower()]
    if not cases:
        sys.exit(f"peers: no row's name contains --only {options.only!r}")
    try:
        task = language_model(options.task)
    except ValueError as error:
        sys.exit(f"peers: {error}")
    subject = subject_of(task)
    metric = judged_by(task)
    # A method that is in several rows runs once in a round.
    measured = {
        method: MeasuredMethod(case.name, method.missing())
        for case in cases
        for method in both(case)
    }
    for number in range(options.rounds + 1):
        for method, found in measured.items():
            if not found.missing:
                measure(method, found, subject, task, timed=number > 0)
                done = f"{found.row}, {method.name}: {metric} {found.quality:.3f}"
                print(f"round {number}: {done}", file=sys.stderr, flush=True)
    table = tabulate(cases, measured, metric, caption(task, subject, options))
    print(table.to_markdown())
    for line in missing_lines(measured):
        print(line)
    if options.out is not None:
        for path in table.save(options.out / "peers"):
            print(path)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--task", default="stories260k", help="a causal LM in conf/task")
    parser.add_argument("--llmcompressor", type=Path, help="Python of its environment")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=3, help="timed; 0: no seconds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for peers.csv and peers.md")
    return parser.parse_args(arguments)


def language_model(name: str) -> CausalLM:
    """The task of that name in conf/task.

    Raises:
        ValueError: there is none, or it is no causal language model.
    """
    from lowrank.tasks import CausalLM

    task = task_named(name)
    if not isinstance(task, CausalLM):
        raise ValueError(f"--task {name} is no causal language model")
    # The first inputs, which all peers are given.
    return replace(task, calibration_seed=None)


def subject_of(task: CausalLM) -> Subject:
    """The task's model with the linear layers of its blocks, and its calibration inputs."""
    model = task.model()
    sites, _ = Select(kinds="Linear", embeddings=False, last=False).split(model)
    calibration = task.split("calibration")
    inputs = [batch.only for batch in calibration.batches(len(calibration))]
    return Subject(
        model=model.requires_grad_(False),
        layers=tuple(site.name for site in sites),
        tokens=torch.cat(inputs),
        folder=Path(hub.model_path(task.pretrained)),
    )


def judged_by(task: CausalLM) -> str:
    """The metric that is compared; less of it is better."""
    first = task.judged_by()[0]
    assert not first.higher_is_better
    return first.name


def both(case: PeerComparison) -> tuple[Method, Method]:
    """The two sides of a row, in the order in which they run."""
    return case.peer, case.own


def measure(
    method: Method, found: MeasuredMethod, subject: Subject, task: CausalLM, timed: bool
) -> None:
    """Run a method once; the first time, evaluate what it made."""
    started = time.perf_counter()
    outcome = method.compress(subject)
    seconds = time.perf_counter() - started
    if timed:
        found.seconds.append(seconds if outcome.seconds is None else outcome.seconds)
        return
    found.outcome = outcome
    found.quality = evaluate(with_weights(subject, outcome), task, batch_size=32).metrics[
        judged_by(task)
    ]


def with_weights(subject: Subject, outcome: Outcome) -> nn.Module:
    """A copy of the model with the compressed matrices in its layers.

    Raises:
        ValueError: a layer was left out.
    """
    if set(outcome.kept) != set(subject.layers):
        different = sorted(set(outcome.kept) ^ set(subject.layers))
        raise ValueError(f"other layers were compressed than asked: {', '.join(different)}")
    model = copy.deepcopy(subject.model)
    for name, kept in outcome.kept.items():
        model.get_parameter(f"{name}.weight").copy_(kept.weight)
    return model


def tabulate(
    cases: Sequence[PeerComparison], measured: dict[Any, MeasuredMethod], metric: str, text: str
) -> Table:
    """One row for each case, the peer's column beside ours."""
    import pandas as pd

    from lowrank.reporting.table import Table, no_bold

    values, cells = [], []
    for case in cases:
        value: dict[str, Any] = {"method": case.name, "peer": case.peer.name}
        value["ours"] = case.setting
        cell = dict(value)
        for side, method in zip(("peer", "ours"), both(case), strict=True):
            value |= numbers(side, measured[method], metric)
            cell |= texts(side, measured[method], metric)
        values.append(value)
        cells.append(cell)
    frame, shown = pd.DataFrame(values), pd.DataFrame(cells)
    best = no_bold(shown)
    least = frame[[f"{metric}_peer", f"{metric}_ours"]].min(axis=1)
    # As good is what reads the same: no reader sees which of two equal numbers is less.
    alike = (shown[f"{metric} peer"] == shown[f"{metric} ours"]) & least.notna()
    for side in ("peer", "ours"):
        best[f"{metric} {side}"] = alike | (frame[f"{metric}_{side}"] == least)
    return Table(frame, shown, best, text, labels=3)


def numbers(side: str, found: MeasuredMethod, metric: str) -> dict[str, float | None]:
    """The columns of one side for CSV; None where there is nothing."""
    outcome, seconds = found.outcome, found.seconds
    return {
        f"bits_{side}": outcome and outcome.bits_per_weight(),
        f"held_bits_{side}": outcome and outcome.held_bits_per_weight(),
        f"{metric}_{side}": found.quality,
        f"seconds_{side}": statistics.median(seconds) if seconds else None,
        f"seconds_{side}_least": min(seconds, default=None),
        f"seconds_{side}_most": max(seconds, default=None),
    }


def texts(side: str, found: MeasuredMethod, metric: str) -> dict[str, str]:
    """The columns of one side for people."""
    bits = quality = seconds = "–"
    if found.outcome is not None:
        stored, held = found.outcome.bits_per_weight(), found.outcome.held_bits_per_weight()
        bits = f"{stored:.2f}" + (f" ({held:.2f})" if abs(held - stored) > 0.005 else "")
        quality = f"{found.quality:.3f}"
    if found.seconds:
        seconds = f"{statistics.median(found.seconds):.2f} "
        seconds += f"({min(found.seconds):.2f} … {max(found.seconds):.2f})"
    return {f"bits {side}": bits, f"{metric} {side}": quality, f"seconds {side}": seconds}


def missing_lines(measured: dict[Any, MeasuredMethod]) -> list[str]:
    """One line for each thing that has to be done before all rows are there."""
    reasons = {found.missing: method.name for method, found in measured.items() if found.missing}
    return [f"missing: the rows of {name}: {reason}" for reason, name in reasons.items()]


def caption(task: CausalLM, subject: Subject, options: argparse.Namespace) -> str:
    """The caption of the table."""
    metric = judged_by(task)
    dense = evaluate(subject.model, task, batch_size=32).metrics[metric]
    facts = environment()
    shown = ("torch", "transformers", "cpu", "git_commit")
    versions = {**{name: facts.get(name) for name in shown}, **peer_versions(options)}
    # The path of the environment is private.
    given = ["DIR/bin/python" if a == str(options.llmcompressor) else a for a in sys.argv[1:]]
    return (
        f"{task.architecture} on {task.name}: {metric} on the test split (dense: {dense:.3f}), "
        f"bits per weight of the {len(subject.layers)} compressed layers, seconds of the "
        f"compression on {options.threads} thread(s), median and range of {options.rounds}. "
        f"Calibration: {tuple(subject.tokens.shape)} tokens. Made by "
        f"`python -m experiments.benchmarks.peers {shlex.join(given)}` with "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )


def peer_versions(options: argparse.Namespace) -> dict[str, str]:
    """The versions of the peers that are installed."""
    found = {}
    if not missing_interpreter(options.llmcompressor):
        found["llm-compressor"] = version(options.llmcompressor)
    for name in PEERS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
