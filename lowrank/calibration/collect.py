"""One pass over data that collects the second moments of the inputs of layers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.calibration.data import CalibrationData
from lowrank.calibration.statistics import Statistics
from lowrank.layers import Rule, rule_for
from lowrank.measure.forward import evaluating

# Runs the model on a batch, given with its number.
Run = Callable[[Any, int], Any]


class NotShared(Exception):
    """A module that seemed to share its inputs with another does not always do so."""

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

    Sums are kept in float64, the products of one batch computed in float32 at least. Positions
    that are padding do not count. Modules that always get the very same tensor and read it
    alike, such as query, key and value projections, share one statistic, which is computed once.

    Args:
        names: of modules that a rule of `lowrank.layers` knows.
        full: E[x xᵀ], and not its diagonal only. Of a look-up table the share of look-ups of each
            row, in both cases.
        run: runs the model, instead of `data.forward`.

    Raises:
        ValueError: a module whose inputs cannot be seen or that no example reached, no data, or
            inputs that are NaN or infinite.
    """
    if run is None:
        run = lambda batch, _: data.forward(model, batch)  # noqa: E731
    separate: set[str] = set()
    while True:
        collector = Collector(model, names, full, separate)
        try:
            collector.observe(data, run)
            return collector.statistics()
        except NotShared as error:
            separate.add(error.name)


@dataclass
class Sum:
    """A sum over positions, in float64."""

    total: Tensor | None = None
    count: int = 0

    def add(self, values: Tensor, count: int) -> None:
        if self.total is None:
            self.total = torch.zeros_like(values, dtype=torch.float64)
        self.total += values
        self.count += count


@dataclass(frozen=True)
class Seen:
    """An input of the batch that runs, and the module whose statistic it was added to."""

    tensor: weakref.ref[Tensor]
    version: int
    reading: Any
    leader: str

    def is_of(self, x: Tensor, reading: Any) -> bool:
        """Whether `x` is that tensor, unchanged, and `Rule.reading` the same."""
        return self.tensor() is x and x._version == self.version and self.reading == reading


class Collector:
    """Hooks on the modules of a model, and the sums that they add to."""

    def __init__(
        self, model: nn.Module, names: Sequence[str], full: bool, separate: set[str]
    ) -> None:
        self.model = model
        self.full = full
        self.separate = separate
        self.modules = {name: model.get_submodule(name) for name in names}
        self.rules = {name: visible_rule(name, module) for name, module in self.modules.items()}
        self.sums = {name: Sum() for name in names}
        self.calls = dict.fromkeys(names, 0)
        self.leaders: dict[str, str] = {}
        self.recent: list[Seen] = []
        self.masks: list[Tensor] = []

    def observe(self, data: CalibrationData, run: Run) -> None:
        """Run all batches."""
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            # Not inference_mode: whether a tensor was changed in place must be seen.
            stack.enter_context(torch.no_grad())
            for name, module in self.modules.items():
                hook = partial(self._before, name)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            for number, batch in enumerate(data.batches()):
                self.masks = data.masks(batch)
                run(batch, number)
                self.recent.clear()

    def statistics(self) -> dict[str, Statistics]:
        """The means of what was observed.

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
        found = self.sums[name]
        if not self.calls[name] and self._is_called_by_another_name(name):
            return Statistics(None, None, 0)
        if found.total is None or not found.count:
            raise ValueError(
                f"layer '{name}': no example of the calibration data reached it. Calibrate on more "
                "data, or leave the layer out with `where`"
            )
        mean = found.total.div_(found.count)
        if not bool(mean.sum().isfinite()):  # Squares: a sum is finite only if all terms are.
            raise ValueError(
                f"layer '{name}': its inputs on the calibration data are NaN or infinite, or too "
                "large for float32. Check the model and the data"
            )
        if self.rules[name].looks_up:
            return Statistics(None, mean, found.count)
        return Statistics(mean, None, found.count)

    def _is_called_by_another_name(self, name: str) -> bool:
        """Whether the module only holds a weight that another one, which is called, shares."""
        weights = {n: self.rules[n].weight(module) for n, module in self.modules.items()}
        return any(self.calls[n] and weights[n] is weights[name] for n in weights)

    def _before(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        self.calls[name] += 1
        if not self._leads(name, x, self.rules[name].reading(module)):
            return
        vectors = self.rules[name].inputs(module, x)
        if self.rules[name].looks_up:
            indices = without_padding(vectors, x.shape, self.masks, name)
            size = self.rules[name].weight(module).shape[0]
            self.sums[name].add(torch.bincount(indices, minlength=size), len(indices))
            return
        kept = without_padding(vectors, x.shape[:-1], self.masks, name)
        kept = kept.to(torch.promote_types(kept.dtype, torch.float32))
        moment = kept.T @ kept if self.full else kept.square().sum(dim=0, dtype=torch.float64)
        self.sums[name].add(moment, len(kept))

    def _leads(self, name: str, x: Tensor, reading: Any) -> bool:
        """Whether this input is to be added up, not being that of an earlier module too."""
        seen = None
        if name not in self.separate:
            seen = next((entry.leader for entry in self.recent if entry.is_of(x, reading)), None)
        expected = self.leaders.setdefault(name, seen or name)
        if expected == name:
            self.recent.append(Seen(weakref.ref(x), x._version, reading, name))
            return True
        if seen != expected:
            raise NotShared(name)
        return False


def visible_rule(name: str, module: nn.Module) -> Rule:
    """The rule of a module whose inputs hooks can see.

    Raises:
        ValueError: another module reads its weight, or no rule knows it.
    """
    rule = rule_for(module)
    if rule is None or not rule.is_called(module):
        raise ValueError(
            f"layer '{name}': the inputs of this {type(module).__name__} cannot be seen, because "
            "another module reads its weight instead of calling it. Leave it out with `where`, or "
            "compress in the identity norm"
        )
    return rule


def without_padding(
    vectors: Tensor, positions: torch.Size, masks: Sequence[Tensor], name: str
) -> Tensor:
    """The vectors (n, in), or indices (n,), of positions that are no padding.

    Args:
        positions: the shape of the positions in the module's input.
        masks: see `CalibrationData.masks`; one counts where it has just these positions, also as
            (length, batch), in which some models order them inside, or as one row.

    Raises:
        ValueError: two masks that differ would fit.
    """
    turned = [m.T if m.shape != positions and m.T.shape == positions else m for m in masks]
    fitting = [m for m in turned if m.shape.numel() == positions.numel()]
    if any(not torch.equal(mask.flatten(), fitting[0].flatten()) for mask in fitting[1:]):
        raise ValueError(
            f"layer '{name}': two masks of padding fit its input and differ. Calibrate with "
            "batches whose encoder and decoder inputs differ in length, or of one example each"
        )
    flat = vectors.flatten() if not vectors.is_floating_point() else vectors.flatten(0, -2)
    if fitting and len(flat) == positions.numel():
        return flat[fitting[0].flatten().to(flat.device)]
    return flat
