"""Correction of biases: each layer's outputs get the means that they have in the dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowrank.calibration.piece import Piece
from lowrank.calibration.sequential import Finished, stopping
from lowrank.calibration.task_pieces import task_pieces
from lowrank.model.factorized import FactorizedConv2d, FactorizedLinear
from lowrank.model.forward import evaluating
from lowrank.numerics.checks import check_flag, check_integer
from lowrank.recovery.recovery import Progress, Recovery, silent
from lowrank.tasks import Task

# Layers whose bias adds to their outputs, and the axis of the outputs that it goes along.
AXES: dict[type[nn.Module], int] = {
    **{nn.Linear: -1, FactorizedLinear: -1, nn.LayerNorm: -1},
    **{nn.Conv2d: -3, FactorizedConv2d: -3, _BatchNorm: 1},
}
NORMS = (_BatchNorm, nn.LayerNorm)


@dataclass(frozen=True)
class BiasCorrection(Recovery):
    """Shifts the bias of each layer so that its outputs have the means of the dense model's.

    By output channel and over all examples and positions but padding; layer after layer in the
    order in which they run, each on what the corrected layers before it give. Where the task pads,
    examples of one length run together, once for each layer. The biases of
    normalisations are among them, and with `gains` their gains too, so that their outputs also have
    the dense standard deviations: in a network with BatchNorm, whose convolutions have no bias,
    that takes the place of re-estimated statistics, and leaves the dense model as it is. No layer
    gets a bias that had none, so the bytes stay, but for numbers that had only 16 bits before.

    Does not pay in a model without biases, such as Llama (refused), nor where little is left of
    the signal: outputs whose spread has shrunk are drowned by means of full size. A classifier of
    digits with 80 % of its weights zero comes nearer to the dense outputs in the mean square (33
    to 23) and falls from 83 to 65 % top-1, because logits of a quarter of the spread lose to the
    differences between the classes' means.

    Args:
        examples: of the calibration split, its first; all if not given. Without padding they run
            as one batch, so that one pass is enough, and their activations must fit the memory.
        gains: see above. A channel that never changes keeps its gain.

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
    def tunes(self) -> bool:
        return False

    def check_data(self, task: Task) -> None:
        there = len(task.split("calibration"))
        if self.examples is not None and self.examples > there:
            raise ValueError(
                f"examples={self.examples} are more than the {there} of the calibration split"
            )

    def check(self, network: nn.Module) -> None:
        _with_bias(network)

    @torch.inference_mode(False)
    @torch.no_grad()
    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        self.check_data(task)
        dense = task.model()
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
            # Of a layer that runs more than once, a shift for one use would be wrong for another.
            once = [name for name, seen in expected.items() if seen.is_once_in(pieces)]
            # In one run each layer sees what those before it give now that they are corrected; in
            # several, if the runs for those are over.
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
        """Correct layers, in the order of their calls, when they have seen all pieces."""
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
        """Correct the bias, and the gain of a normalisation; the outputs as they are now."""
        bias = layer.get_parameter("bias")
        gain = layer._parameters.get("weight") if isinstance(layer, NORMS) else None
        shift = wanted.mean - found.mean
        ratio = torch.ones_like(shift)
        if self.gains and gain is not None:
            varies = found.deviation > 0
            ratio[varies] = wanted.deviation[varies] / found.deviation[varies]
            gain.copy_(gain * ratio)
            # The outputs less the bias scale with the gain, their mean too.
            shift += (1 - ratio) * (found.mean - bias)
        old = bias.clone()
        bias.copy_(bias + shift)
        old, new, ratio = (_along(v.to(outputs.dtype), outputs, layer) for v in (old, bias, ratio))
        return (outputs - old) * ratio + new


@dataclass(frozen=True)
class Moments:
    """Of a layer's outputs, by channel, in float64."""

    mean: Tensor
    deviation: Tensor


class OutputStatistics:
    """What was seen of a layer's outputs."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.pieces: list[Piece] = []
        self.parts: list[tuple[int, Tensor, Tensor]] = []
        self.counts_padding = False

    def add(self, outputs: Tensor, piece: Piece) -> None:
        """Count, mean and variance over all positions but padding."""
        last = outputs.movedim(_axis(self.layer), -1)
        rows, (real, notes) = last.reshape(-1, last.shape[-1]), piece.real(last.shape[:-1])
        rows = (rows if real is None else rows[real.to(rows.device)]).double()
        self.counts_padding |= bool(notes)
        self.pieces.append(piece)
        self.parts.append((len(rows), rows.mean(dim=0), rows.var(dim=0, correction=0)))

    def is_once_in(self, pieces: Sequence[Piece]) -> bool:
        """Whether the layer ran just once for each piece."""
        return list(map(id, self.pieces)) == list(map(id, pieces))

    def moments(self) -> Moments:
        """Over all pieces together."""
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
    """Call `function` with the name and the outputs of each layer that runs; what it returns, if
    anything, takes the place of the outputs.
    """

    def hook(name: str, _layer: nn.Module, _args: Any, outputs: Tensor) -> Tensor | None:
        return function(name, outputs)

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(hook, name)).remove)
        yield


def _axis(layer: nn.Module) -> int:
    return next(axis for kind, axis in AXES.items() if isinstance(layer, kind))


def _along(values: Tensor, outputs: Tensor, layer: nn.Module) -> Tensor:
    shape = [1] * outputs.ndim
    shape[_axis(layer)] = -1
    return values.view(shape)


def _with_bias(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have a bias of their own, by name.

    Raises:
        ValueError: there are none.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, tuple(AXES)) and module._parameters.get("bias") is not None
    }
    if not layers:
        raise ValueError(
            "no linear layer, convolution or normalisation of this model has a bias, so there is "
            "none to correct; use another recovery"
        )
    return layers
