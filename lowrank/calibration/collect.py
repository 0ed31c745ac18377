"""Second moments of the inputs of layers, collected in one pass over data."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lowrank.calibration.contents import described
from lowrank.calibration.data import CalibrationData
from lowrank.calibration.piece import Piece, Refused, running
from lowrank.calibration.statistics import Statistics
from lowrank.model.batch import Batch
from lowrank.model.forward import evaluating, unfused_attention
from lowrank.model.host import calling
from lowrank.model.layers import rule_for
from lowrank.model.layers.rule import Unseen
from lowrank.model.nested import tensors
from lowrank.numerics.versions import version

# Runs the model on a piece of the data; the second argument is the number of the piece.
Run = Callable[[Piece, int], Any]

NOT_FINITE = (
    "its inputs on the calibration data are NaN or infinite, or too large for float32. Check the "
    "model and the data"
)
UNREACHED = "no example of the calibration data reached it"


class NotShared(Exception):
    """A module does not always share its inputs with the module whose statistic it was given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def collect(
    model: nn.Module,
    names: Sequence[str],
    data: CalibrationData,
    full: bool,
    run: Run | None = None,
) -> dict[str, Statistics]:
    """The second moments of the inputs of modules, from one pass in evaluation mode.

    Sums are kept in float64; the products of one batch are computed in float32 or better. Padding
    is left out; where it cannot be, the notes of the statistics say that it counts. Modules that
    always get the same tensor and read it in the same way, such as query, key and value
    projections, share one statistic, which is computed once.

    Args:
        names: the names of modules for which `lowrank.model.layers` has a rule.
        full: whether E[x xᵀ] is collected, or only its diagonal. A look-up table gets the share of
            look-ups of each row in both cases.
        run: runs the model, instead of `data.forward`.

    Returns:
        Statistics by the name of the module. A module that no example reaches has a count of 0 and
        a note that says why.

    Raises:
        ValueError: no data, or a batch that the model cannot run or that has no axis of examples.
    """
    if run is None:
        run = lambda piece, _: data.forward(model, piece.batch)  # noqa: E731
    separate: set[str] = set()
    while True:
        collector = Collector(model, names, full, separate)
        try:
            collector.observe(data, run)
            return collector.statistics()
        except NotShared as error:
            separate.add(error.name)


@dataclass
class MomentSum:
    """A sum over positions, in float64."""

    total: Tensor | None = None
    count: int = 0

    def add(self, values: Tensor, count: int) -> None:
        if self.total is None:
            self.total = torch.zeros_like(values, dtype=torch.float64)
        self.total += values
        self.count += count


@dataclass(frozen=True)
class CountedInput:
    """An input seen in the present batch, and the module to whose statistic it was added."""

    tensor: weakref.ref[Tensor]
    version: int
    reading: Any
    leader: str

    def is_of(self, x: Tensor, reading: Any) -> bool:
        """Whether `x` is the same unchanged tensor, read in the same way (`Rule.reading`)."""
        return self.tensor() is x and version(x) == self.version and self.reading == reading


class Collector:
    """Hooks on the modules of a model, and the sums that they fill."""

    def __init__(
        self, model: nn.Module, names: Sequence[str], full: bool, separate: set[str]
    ) -> None:
        self.model = model
        self.full = full
        self.separate = separate
        self.modules = {name: model.get_submodule(name) for name in names}
        self.rules = {name: rule_for(module) for name, module in self.modules.items()}
        self.unseen: dict[str, str] = {}  # By the name of a module, why no vectors are its inputs.
        self.sums = {name: MomentSum() for name in names}
        self.calls = dict.fromkeys(names, 0)
        self.notes: dict[str, dict[str, None]] = {name: {} for name in names}
        self.leaders: dict[str, str] = {}
        self.recent: list[CountedInput] = []
        self.piece = Piece(Batch(()), 0)
        self.axes = 0

    def observe(self, data: CalibrationData, run: Run) -> None:
        """Run all batches."""
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            # Not inference_mode, in which in-place changes of a tensor are not counted.
            stack.enter_context(torch.no_grad())
            stack.enter_context(unfused_attention())  # Fused kernels call no module.
            stack.enter_context(calling(self.model))
            for name, module in self.modules.items():
                hook = partial(self._before, name)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            for number, piece in enumerate(data.pieces(self.model, alone=True)):
                self.piece = piece
                self.axes = max((tensor.ndim for tensor in tensors(piece.batch.inputs)), default=0)
                with running(piece, self.model):
                    run(piece, number)
                self.recent.clear()

    def statistics(self) -> dict[str, Statistics]:
        """The means over all batches observed.

        Raises:
            NotShared: a module was called less often than the one whose inputs it shares.
        """
        for name, leader in self.leaders.items():
            if self.calls[name] != self.calls[leader]:
                raise NotShared(name)
        means = {
            name: self._mean(name) for name in self.modules if self.leaders.get(name, name) == name
        }
        return {name: means[self.leaders.get(name, name)] for name in self.modules}

    def _mean(self, name: str) -> Statistics:
        found, rule = self.sums[name], self.rules[name]
        if name in self.unseen or found.total is None or not found.count or rule is None:
            return Statistics(None, None, 0, (self.unseen.get(name, UNREACHED),))
        mean = found.total.div_(found.count)
        if not bool(mean.sum().isfinite()):  # Sums of squares are finite only if all terms are.
            return Statistics(None, None, 0, (NOT_FINITE,))
        notes = tuple(self.notes[name])
        if rule.looks_up:
            return Statistics(None, mean, found.count, notes)
        return Statistics(mean, None, found.count, notes)

    def _before(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        x, *others = given(module, args, kwargs)
        self.calls[name] += 1
        rule = self.rules[name]
        assert rule is not None
        if not self._leads(name, x, rule.reading(module, x, *others)):
            return
        if rule.looks_up:
            self._look_up(name, x, rule.weight(module).shape[0])
            return
        self._check_examples(name, module, x)
        try:
            vectors = rule.inputs(module, x, *others)
        except Unseen as error:
            self.unseen[name] = str(error)
            return
        if vectors.shape[-1] != rule.matrix(module, "channel").shape[1]:
            return  # The module itself says what is wrong.
        kept = self._real(name, vectors.reshape(-1, vectors.shape[-1]), x.shape[:-1])
        kept = kept.to(torch.promote_types(kept.dtype, torch.float32))
        moment = kept.T @ kept if self.full else kept.square().sum(dim=0, dtype=torch.float64)
        self.sums[name].add(moment, len(kept))

    def _look_up(self, name: str, x: Tensor, size: int) -> None:
        if x.is_floating_point() or bool(((x < 0) | (x >= size)).any()):
            return  # The module itself says what is wrong.
        indices = self._real(name, x.flatten(), x.shape)
        self.sums[name].add(torch.bincount(indices, minlength=size), len(indices))

    def _real(self, name: str, rows: Tensor, positions: torch.Size) -> Tensor:
        """The rows (n, …) that are no padding, or all rows and a note if padding cannot be
        recognised.
        """
        self.notes[name] |= dict.fromkeys(self.piece.notes)
        # The vectors that a convolution multiplies are not the positions of its input.
        real, notes = self.piece.real(positions if positions.numel() == len(rows) else None)
        self.notes[name] |= dict.fromkeys(notes)
        return rows if real is None else rows[real.to(rows.device)]

    def _check_examples(self, name: str, module: nn.Module, x: Tensor) -> None:
        """Raise ValueError if neither the batch nor the layer's input has an axis of examples."""
        least = module.weight.ndim if isinstance(module, _ConvNd) else 2
        if x.ndim < least and self.axes <= x.ndim:
            raise Refused(
                f"layer '{name}': its input of shape {tuple(x.shape)} has no axis of examples, and "
                f"neither has calibration batch {self.piece.number} "
                f"({described(self.piece.batch.inputs)}): give batches with one, such as "
                "torch.stack(examples), or example[None]"
            )

    def _leads(self, name: str, x: Tensor, reading: Any) -> bool:
        """Whether this input must be added up; False if an earlier module added it already."""
        seen = None
        if name not in self.separate:
            seen = next((entry.leader for entry in self.recent if entry.is_of(x, reading)), None)
        expected = self.leaders.setdefault(name, seen or name)
        if expected == name:
            self.recent.append(CountedInput(weakref.ref(x), version(x), reading, name))
            return True
        if seen != expected:
            raise NotShared(name)
        return False


def given(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a call of a module by position."""
    if not kwargs:
        return args
    return tuple(inspect.signature(module.forward).bind(*args, **kwargs).arguments.values())
