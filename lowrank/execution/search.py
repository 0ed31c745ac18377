"""Trials of all kernels that can run a layer: the error, the memory and the time of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from lowrank.execution.choice import choose
from lowrank.execution.kernel import (
    ACCURACIES,
    Accuracy,
    Goal,
    Kernel,
    Prepared,
    Run,
    Work,
    allowed,
    bound,
    relative_error,
)
from lowrank.execution.kernels import KERNELS
from lowrank.execution.observe import leaf_work
from lowrank.execution.plan import FACTORED, Trial
from lowrank.execution.substitute import with_runs
from lowrank.execution.timing import Timed, race
from lowrank.measure.size import leaves
from lowrank.numerics.checks import check_integer, check_is, check_list, check_positive


@dataclass(frozen=True)
class Search:
    """The settings of the trials of kernels.

    Args:
        seconds: about how long the kernels of one layer, or leaf, are timed beyond 5 rounds.
        threads: CPU threads, the number that the model will run with; those that torch uses now if
            not given.
        kernels: what is tried, the dense kernel first.

    Raises:
        ValueError: seconds or threads cannot be, or the first kernel is not the dense one.
    """

    seconds: float = 0.2
    threads: int | None = None
    kernels: tuple[Kernel, ...] = KERNELS

    def __post_init__(self) -> None:
        check_positive("seconds", self.seconds)
        if self.threads is not None:
            check_integer("threads", self.threads, least=1)
        check_list("kernels", self.kernels)
        for kernel in self.kernels:
            check_is("kernels", kernel, Kernel, "DenseKernel()")
        names = [kernel.name for kernel in self.kernels]
        if names[:1] != ["dense"] or len(set(names)) < len(names):
            raise ValueError(
                f"kernels={names} must begin with 'dense', which the others are set beside, and "
                "have different names"
            )


class Found(NamedTuple):
    """The trials of one layer or leaf, and the prepared kernels among them."""

    trials: list[Trial]
    prepared: list[Prepared | None]


def try_layer(
    work: Work, accuracy: Accuracy, search: Search, goal: Goal = "speed"
) -> tuple[Found, dict[Accuracy, dict[str, str]]]:
    """Every kernel for a layer; where it has parts, also they with the best kernel for each.

    Returns:
        What was found, and the kernels of the parts by the accuracy that was allowed to them.
    """
    if work.leaf is not None:
        return _try(work, search, accuracy), {}
    leaves = leaf_work(work)
    tried = {path: _try(leaf, search, accuracy) for path, leaf in leaves.items()}
    parts: dict[Accuracy, dict[str, str]] = {}
    factored: list[tuple[Trial, Prepared]] = []
    for limit in ACCURACIES[: ACCURACIES.index(accuracy) + 1]:
        chosen = {path: choose(found.trials, limit, goal) for path, found in tried.items()}
        names = {path: tried[path].trials[place].kernel for path, place in chosen.items()}
        if names in parts.values():
            continue
        parts[limit] = names
        prepared = {path: tried[path].prepared[place] for path, place in chosen.items()}
        factored.append((Trial(FACTORED, limit), assemble(work, prepared)))
    return _try(work, search, accuracy, factored), parts


def _try(
    work: Work,
    search: Search,
    limit: Accuracy,
    others: Sequence[tuple[Trial, Prepared]] = (),
) -> Found:
    """Run every kernel that can do the work, and `others`, and time those that are exact enough."""
    expected = _output(work.native, work.x)
    trials: list[Trial] = []
    prepared: list[Prepared | None] = []
    for kernel in search.kernels:
        if not allowed(kernel.accuracy, limit):
            continue
        why = kernel.refusal(work)
        trials.append(Trial(kernel.name, kernel.accuracy, refused=why))
        prepared.append(None if why else prepare(kernel, work))
    trials += [trial for trial, _ in others]
    prepared += [one for _, one in others]
    for place, one in enumerate(prepared):
        if one is not None:
            trials[place] = _checked(trials[place], one, work.x, expected)
    going = [i for i, trial in enumerate(trials) if not trial.refused]
    timed = race([_run(prepared[i]) for i in going], work.x, search.seconds)
    for place, times in zip(going, timed, strict=True):
        trials[place] = _with_times(trials[place], times)
    return Found(trials, prepared)


def _checked(trial: Trial, prepared: Prepared, x: Tensor, expected: Tensor) -> Trial:
    """The trial with its error, refused if that is more than its accuracy allows."""
    error = relative_error(_output(prepared.run, x), expected)
    most = bound(trial.accuracy, expected.dtype)
    sizes = {"packed_bytes": prepared.packed_bytes, "made_bytes": prepared.made_bytes}
    # Of a table only the rows are read that the indices name.
    read = prepared.read_bytes if x.is_floating_point() else None
    trial = replace(trial, **sizes, read_bytes=read)
    if error == float("inf"):
        return replace(trial, refused="its outputs are not finite")
    trial = replace(trial, error=error)
    # The dense product is the reference of all speeds, and is exact up to rounding in its dtype.
    if error > most and trial.kernel != "dense":
        why = f"its error of {error:.2g} is above {most:.2g}, the most for {trial.accuracy}"
        trial = replace(trial, refused=why)
    return trial


def _with_times(trial: Trial, times: Timed) -> Trial:
    return replace(trial, **asdict(times))


def assemble(work: Work, parts: Mapping[str, Prepared | None]) -> Prepared:
    """The factorization with these kernels in the places of its leaves."""
    runs = {path: _run(one) for path, one in parts.items()}
    form = with_runs(work.factorization, runs)
    ready = [one for one in parts.values() if one is not None]
    held = sum(one.packed_bytes for one in ready)
    made = max((one.made_bytes for one in ready), default=0)
    known = [one.read_bytes for one in ready if one.read_bytes is not None]
    read = sum(known) if len(known) == len(list(leaves(form))) else None
    operation, bias = work.operation, work.bias
    return Prepared(lambda x: form(x, operation, bias), held, made, read)


def prepare(kernel: Kernel, work: Work) -> Prepared:
    """The kernel packed for the work, outside of any mode for inference."""
    with torch.inference_mode(False), torch.no_grad():
        return kernel.prepare(work)


def _run(prepared: Prepared | None) -> Run:
    assert prepared is not None
    return prepared.run


def _output(run: Run, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return run(x)
