"""Losses by which allocations compare candidates: an estimate for each weight and candidate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lowrank.allocation.allocation import Problem
from lowrank.allocation.analysis import Option
from lowrank.allocation.progress import reported
from lowrank.calibration import Calibration
from lowrank.calibration.data import as_data, quotient
from lowrank.calibration.piece import Piece, running
from lowrank.model.copying import copied
from lowrank.model.forward import evaluating
from lowrank.model.nested import tensors
from lowrank.model.sites import Site, replace_module, stand_in
from lowrank.numerics.checks import check_flag, check_integer

# Bytes of the outputs of the dense model that stay in memory, and of those of one run.
KEPT_BYTES, AT_ONCE = 2**30, 2**28

Options = Mapping[str, Sequence[Option]]
Losses = dict[str, list[float]]


class Loss(ABC):
    """A loss for each option of each weight; the losses of a model's weights are added."""

    @property
    @abstractmethod
    def needs_data(self) -> bool:
        """Whether it is measured on calibration data."""

    @abstractmethod
    def check(self, problem: Problem) -> None:
        """Raise ValueError if the data that it needs are not there; takes no time."""

    @abstractmethod
    def of(self, problem: Problem, options: Options) -> Losses:
        """The loss of every option, at least 0, by the name of the weight.

        Raises:
            ValueError: what `check` raises.
        """


@dataclass(frozen=True)
class NormError(Loss):
    """‖W − Ŵ‖² in the norm: with the full norm, the squared error of the layer's outputs.

    It needs no further run of the model, and assumes that errors matter equally in every layer.

    Args:
        relative: divided by ‖W‖² in the norm, so that layers of large outputs do not weigh more.
    """

    relative: bool = False

    def __post_init__(self) -> None:
        check_flag("relative", self.relative)

    @property
    def needs_data(self) -> bool:
        return False

    def check(self, problem: Problem) -> None:
        pass  # The errors are known already.

    def of(self, problem: Problem, options: Options) -> Losses:
        return {
            name: [o.error / o.energy if self.relative and o.energy else o.error for o in of_site]
            for name, of_site in options.items()
        }


@dataclass(frozen=True)
class Sensitivity(Loss):
    """The distance of the model's outputs from the dense ones when one weight takes a candidate.

    Measured on calibration data by `CalibrationData.difference`: for a classifier or a language
    model KL(dense ‖ model). Padding does not count. Each measured option takes one forward pass of
    `examples`.

    Args:
        examples: of the calibration data, from the first on and in whole batches; all if not
            given.
        probes: options measured in each layer, spread evenly over their errors; between them the
            distance is interpolated as a power of the error in the norm. None: all are measured.
        batch_size: examples that run at once, if the data are a task's.
    """

    examples: int | None = 64
    probes: int | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_integer("batch_size", self.batch_size, least=1)
        if self.examples is not None:
            check_integer("examples", self.examples, least=1)
        if self.probes is not None:
            check_integer("probes", self.probes, least=2)

    @property
    def needs_data(self) -> bool:
        return True

    def check(self, problem: Problem) -> None:
        check_runnable(problem)

    def of(self, problem: Problem, options: Options) -> Losses:
        distance = OutputDistance(problem, self.examples, self.batch_size)
        sites = reported(problem.sites, len(problem.sites), "losses measured, by layers")
        return {site.name: self._of_site(distance, site, options[site.name]) for site in sites}

    def _of_site(
        self, distance: OutputDistance, site: Site, options: Sequence[Option]
    ) -> list[float]:
        def measured(index: int) -> float:
            return distance.of({site.name: options[index]})

        inexact = [i for i, option in enumerate(options) if option.error > 0]
        losses = [0.0] * len(options)
        for index in inexact if self.probes is None else spread(options, inexact, self.probes):
            losses[index] = measured(index)
        if self.probes is not None:
            probed = [i for i in inexact if losses[i] > 0]
            interpolate(losses, [option.error for option in options], probed, inexact)
        return losses


def spread(options: Sequence[Option], indices: Sequence[int], count: int) -> list[int]:
    """`count` of the options, spread evenly over the logarithms of their errors."""
    by_error = sorted(indices, key=lambda index: options[index].error)
    if len(by_error) <= count:
        return by_error
    errors = np.log([options[index].error for index in by_error])
    wanted = np.linspace(errors[0], errors[-1], count)
    return sorted({by_error[int(np.abs(errors - value).argmin())] for value in wanted})


def interpolate(
    losses: list[float], errors: Sequence[float], probed: Sequence[int], inexact: Sequence[int]
) -> None:
    """Fill in the losses that were not measured, as powers of the error between those that were."""
    order = sorted(probed, key=lambda index: errors[index])
    if not order:
        return
    x = np.log([errors[index] for index in order])
    y = np.log([losses[index] for index in order])
    for index in set(inexact) - set(probed):
        here = float(np.log(errors[index]))
        if here <= x[0]:  # A small error moves the outputs in proportion to its square.
            losses[index] = float(np.exp(y[0] + here - x[0]))
        else:
            losses[index] = float(np.exp(np.interp(here, x, y)))


class OutputDistance:
    """The distance of a model's outputs from the dense ones, with some of its weights replaced.

    Args:
        examples: of the calibration data, from the first on; None for all.

    Raises:
        ValueError: there are no data that a model can be run on.
    """

    def __init__(self, problem: Problem, examples: int | None, batch_size: int) -> None:
        check_runnable(problem)
        self.original, self.data = problem.model, as_data(problem.data, batch_size)
        self.sites = {site.name: site for site in problem.sites}
        weights = [weight for site in problem.sites for weight in site.parameters]
        self.model, copies = copied(problem.model, weights)
        uses = [use for site in problem.sites for use in site.uses]
        self.modules: dict[str, nn.Module] = {use.name: copies[id(use.module)] for use in uses}
        self.data.check(problem.model)
        with evaluating(self.original), torch.inference_mode():
            self.data = self.data.within(self.original, AT_ONCE)
        self.pieces = list(self.data.pieces(self.model, examples))
        # Of the first pieces; those of the others are computed again each time.
        self.kept: list[Any] = []
        size = 0
        for piece in self.pieces:
            outputs = self._dense(piece)
            size += sum(tensor.nbytes for tensor in tensors(outputs))
            if size > KEPT_BYTES:
                break
            self.kept.append(outputs)

    def _dense(self, piece: Piece) -> Any:
        with evaluating(self.original), torch.inference_mode(), running(piece, self.original):
            return self.data.outputs(self.original, piece.batch)

    def of(self, options: Mapping[str, Option]) -> float:
        """The mean distance to the dense model's outputs with these options in place.

        Infinite where an output is not finite.
        """
        replaced: list[tuple[nn.Module, nn.Module]] = []
        for name, option in options.items():
            replaced += self._put(self.sites[name], option)
        try:
            with evaluating(self.model), torch.inference_mode():
                return self._mean()
        finally:
            for old, new in reversed(replaced):
                self.model = replace_module(self.model, new, old)
                new.eval()  # Drops the dense copies that leaves keep once they have run.

    def _put(self, site: Site, option: Option) -> list[tuple[nn.Module, nn.Module]]:
        if option.factorization is None:
            return []
        pairs = []
        for use in site.uses:
            old = self.modules[use.name]
            view = option.decomposer.kernel_view()
            new = stand_in(use, old, option.factorization, view).eval()
            self.model = replace_module(self.model, old, new)
            pairs.append((old, new))
        return pairs

    def _mean(self) -> float:
        total = weight = 0.0
        for number, piece in enumerate(self.pieces):
            outputs = self.data.outputs(self.model, piece.batch)
            dense = self.kept[number] if number < len(self.kept) else self._dense(piece)
            own, count = self.data.difference(outputs, dense, piece)
            total += own
            weight += count
        # Rounding can make a zero distance negative. Outputs that are not finite have an infinite
        # distance; `max` would turn NaN into 0.
        mean = quotient(total, weight)
        return max(0.0, mean) if math.isfinite(mean) else math.inf


def check_runnable(problem: Problem) -> None:
    """Raise ValueError unless there are data that a model can be run on."""
    if problem.data is None or isinstance(problem.data, Calibration):
        raise ValueError(
            "how far a model's outputs move is measured on calibration data: give `data`, a task "
            "or a list of batches; or choose by the error in the norm alone, with the loss "
            "NormError() and, of a MixedAllocation, rivals=0"
        )
