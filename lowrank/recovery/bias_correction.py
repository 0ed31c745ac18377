"""Bias correction: the outputs of each layer get the means of the dense model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lowrank.calibration.piece import Piece
from lowrank.calibration.replay import Finished, stopping
from lowrank.calibration.task_pieces import task_pieces
from lowrank.model.factorized import FactorizedConvolution, FactorizedLinear
from lowrank.model.forward import evaluating
from lowrank.numerics.checks import check_flag, check_integer
from lowrank.recovery.recovery import Progress, Recovery, silent
from lowrank.tasks import Task
from lowrank.tasks.task import SplitName

# Layers that add a bias to their outputs.
CONVOLUTIONS = (_ConvNd, FactorizedConvolution)
LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    FactorizedLinear,
    nn.LayerNorm,
    _BatchNorm,
    *CONVOLUTIONS,
)
NORMS = (_BatchNorm, nn.LayerNorm)


@dataclass(frozen=True)
class BiasCorrection(Recovery):
    """Shifts the bias of each layer so that its outputs have the means of the dense model's.

    Means are per output channel, over all examples and all positions but padding. Layers are
    corrected in the order in which they run, each on the outputs of the corrected layers before it.
    If the task pads, examples of one length run together, once for each layer. Normalisations have
    their biases corrected too, and with `gains` their gains, which gives their outputs the dense
    standard deviations. In a network with BatchNorm, whose convolutions have no bias, this replaces
    re-estimated statistics and does not change the dense model. No layer gets a new bias, so the
    bytes stay the same, except for numbers that were stored in 16 bits before.

    Refused for a model without biases, such as Llama. Does not pay after strong compression, which
    shrinks the spread of the outputs while the corrected means have full size. For example, a
    classifier of digits with 80 % of its weights zero comes nearer to the dense outputs (mean
    squared error 33 to 23) but falls from 83 to 65 % top-1, because its logits have a quarter of
    the dense spread and the differences between the classes' means dominate.

    Args:
        examples: the number of examples, the first of the calibration split; all if not given.
            Without padding they run as one batch, so one pass is enough, and their activations must
            fit into memory.
        gains: whether the gains of normalisations are corrected. A channel with constant outputs
            keeps its gain.

    Raises:
        ValueError: an option outside its range; from `recover`, more examples asked for than there
            are, or no layer with a bias.

    Source: Nagel et al., ICCV 2019, section 4.2 (the empirical correction of appendix D).
    """

    examples: int | None = None
    gains: bool = True

    def __post_init__(self) -> None:
        check_flag("gains", self.gains)
        if self.examples is not None:
            check_integer("examples", self.examples, least=1)

    @property
    def changes_dense(self) -> bool:
        return False

    @property
    def learns_from(self) -> SplitName | None:
        return "calibration"

    @property
    def tunes(self) -> bool:
        return False

    def check_data(self, task: Task) -> None:
        there = len(task.split("calibration"))
        if there == 0:
            raise ValueError(f"the calibration split of task {task.name!r} is empty")
        if self.examples is not None and self.examples > there:
            raise ValueError(
                f"examples={self.examples} are more than the {there} of the calibration split"
            )

    def check(self, network: nn.Module) -> None:
        _with_bias(network)

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        return self.recover_toward(model, task.model(), task, progress)

    @torch.inference_mode(False)
    @torch.no_grad()
    def recover_toward(
        self, model: nn.Module, dense: nn.Module, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        self.check_data(task)
        split = task.split("calibration")
        count = len(split) if self.examples is None else self.examples
        pieces = next(task_pieces(task, split, count, None, count))
        layers = _with_bias(model)
        expected: dict[str, OutputStatistics] = {}  # In the order of the first calls.
        with evaluating(model, dense):
            for piece in pieces:

                def note(name: str, outputs: Tensor, piece: Piece = piece) -> None:
                    expected.setdefault(name, OutputStatistics(layers[name])).add(outputs, piece)

                with watching({name: dense.get_submodule(name) for name in layers}, note):
                    task.forward(dense, piece.batch)
            # A layer that runs more than once would need another shift for each use.
            once = [name for name, seen in expected.items() if seen.is_once_in(pieces)]
            # With one piece, each layer in the run already gets the outputs of corrected layers;
            # with several pieces, the layers before it must be finished first.
            for names in [once] if len(pieces) == 1 else [[name] for name in once]:
                wanted = {name: expected[name].moments() for name in names}
                self._correct_all(model, task, pieces, wanted)
        padded = [name for name in once if expected[name].counts_padding]
        left = sorted(layers.keys() - set(once))
        return (
            {"corrected_layers": len(once), "examples": count}
            | ({"run_more_or_less_than_once": left} if left else {})
            | ({"padding_counts_in": padded} if padded else {})
        )

    def _correct_all(
        self, model: nn.Module, task: Task, pieces: Sequence[Piece], wanted: dict[str, Moments]
    ) -> None:
        """Correct layers in the order of their calls, each after it has run on all pieces."""
        layers = {name: model.get_submodule(name) for name in wanted}
        found = {name: OutputStatistics(layer) for name, layer in layers.items()}
        for piece in pieces:

            def correct(name: str, outputs: Tensor, piece: Piece = piece) -> Tensor | None:
                found[name].add(outputs, piece)
                if piece is pieces[-1]:
                    seen = found[name].moments()
                    return self._correct(layers[name], outputs, seen, wanted[name])

            with watching(layers, correct), stopping(layers[list(layers)[-1]], 1):
                try:
                    task.forward(model, piece.batch)
                except Finished:
                    pass

    def _correct(
        self, layer: nn.Module, outputs: Tensor, found: Moments, wanted: Moments
    ) -> Tensor:
        """Correct the bias, and the gain of a normalisation; return the corrected outputs."""
        bias = layer.get_parameter("bias")
        gain = layer._parameters.get("weight") if isinstance(layer, NORMS) else None
        shift = wanted.mean - found.mean
        ratio = torch.ones_like(shift)
        if self.gains and gain is not None:
            varies = found.deviation > 0
            ratio[varies] = wanted.deviation[varies] / found.deviation[varies]
            gain.copy_(gain * ratio)
            # The outputs minus the bias are proportional to the gain, and so is their mean.
            shift += (1 - ratio) * (found.mean - bias)
        old = bias.clone()
        bias.copy_(bias + shift)
        old, new, ratio = (_along(v.to(outputs.dtype), outputs, layer) for v in (old, bias, ratio))
        return (outputs - old) * ratio + new


@dataclass(frozen=True)
class Moments:
    """The moments of a layer's outputs by channel, in float64."""

    mean: Tensor
    deviation: Tensor


class OutputStatistics:
    """The statistics of a layer's outputs, piece by piece."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.pieces: list[Piece] = []
        self.parts: list[tuple[int, Tensor, Tensor]] = []
        self.counts_padding = False

    def add(self, outputs: Tensor, piece: Piece) -> None:
        """Add a piece's count, mean and variance over all positions but padding."""
        last = outputs.movedim(_axis(self.layer), -1)
        rows, (real, notes) = last.reshape(-1, last.shape[-1]), piece.real(last.shape[:-1])
        rows = (rows if real is None else rows[real.to(rows.device)]).double()
        self.counts_padding |= bool(notes)
        self.pieces.append(piece)
        self.parts.append((len(rows), rows.mean(dim=0), rows.var(dim=0, correction=0)))

    def is_once_in(self, pieces: Sequence[Piece]) -> bool:
        """Whether the layer ran exactly once for each piece."""
        return list(map(id, self.pieces)) == list(map(id, pieces))

    def moments(self) -> Moments:
        """The moments over all pieces together."""
        total = sum(count for count, _, _ in self.parts)
        mean = sum_of(mean * (count / total) for count, mean, _ in self.parts)
        variance = sum_of(
            (own + (part - mean).square()) * (count / total) for count, part, own in self.parts
        )
        return Moments(mean, variance.sqrt())


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(dim=0)


@contextmanager
def watching(
    layers: dict[str, nn.Module], function: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Inside, call `function` with the name and the outputs of each layer that runs; a value that
    it returns replaces the outputs.
    """

    def hook(name: str, _layer: nn.Module, _args: Any, outputs: Tensor) -> Tensor | None:
        return function(name, outputs)

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(hook, name)).remove)
        yield


def _axis(layer: nn.Module) -> int:
    """The axis of the output channels."""
    if isinstance(layer, CONVOLUTIONS):
        return -1 - len(layer.kernel_size)
    return 1 if isinstance(layer, _BatchNorm) else -1


def _along(values: Tensor, outputs: Tensor, layer: nn.Module) -> Tensor:
    shape = [1] * outputs.ndim
    shape[_axis(layer)] = -1
    return values.view(shape)


def _with_bias(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have their own bias, by name.

    Raises:
        ValueError: there are none.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LAYERS) and module._parameters.get("bias") is not None
    }
    if not layers:
        raise ValueError(
            "no linear layer, convolution or normalisation of this model has a bias, so there is "
            "none to correct; use another recovery"
        )
    return layers
