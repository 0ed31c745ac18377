"""The kinds of layers: of each a small one, and inputs for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Kind:
    """A small layer and inputs of three examples for it.

    Attributes:
        macs: of one example, by hand.
        names: of its weights.
        linear: whether an output is a weight's matrix by its inputs, plus a bias.
        reads: whether the code of the layer reads its weights, which are multiplied out then.
    """

    make: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    macs: int
    names: tuple[str, ...] = ("layer",)
    linear: bool = True
    reads: bool = False

    @cache  # noqa: B019
    def dense(self) -> nn.Module:
        """The layer as a part of a model, in float64."""
        return Model(self.made(seed=0)).eval()

    def outputs(self, model: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return [model(*self.inputs)]

    def made(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.make().double()


class Model(nn.Module):
    """A model of one layer; its only output is that of the layer, or the first of several."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any) -> Tensor:
        outputs = self.layer(*inputs)
        return outputs[0] if isinstance(outputs, tuple) else outputs


class ByProduct(nn.Linear):
    """A linear layer with code of its own that computes the same."""

    def forward(self, x: Tensor) -> Tensor:
        product = x @ self.weight.T
        return product if self.bias is None else product + self.bias


class Symmetric(nn.Module):
    """A parametrization of a symmetric matrix."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def old_norm(normalise: Callable[..., nn.Module], layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return normalise(layer)


class Wrapping(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def of_gates(*kinds: str, layers: int = 1, both: bool = False) -> tuple[str, ...]:
    """The names of the weights of a recurrent layer."""
    ends = ("", "_reverse") if both else ("",)
    places = [f"l{layer}{end}" for layer in range(layers) for end in ends]
    return tuple(f"layer.{kind}_{place}" for place in places for kind in kinds)


class Steps(nn.Module):
    """A cell that is called for each step of a sequence."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0] if isinstance(state, tuple) else state


class ToItself(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.attention(x, x, x, need_weights=False)[0].transpose(0, 1)


SEQUENCE, IMAGE, VOLUME = random(3, 4, 9), random(3, 4, 6, 7), random(3, 4, 5, 4, 6)

KINDS = {
    "linear": Kind(lambda: nn.Linear(6, 8), (random(3, 5, 6),), 5 * 48),
    "linear by product": Kind(lambda: ByProduct(6, 8), (random(3, 5, 6),), 5 * 48),
    "wrapped": Kind(lambda: Wrapping(4, 6, 3, padding=1), (IMAGE,), 42 * 6 * 36),
    "conv1d": Kind(lambda: nn.Conv1d(4, 6, 3, stride=2, dilation=2), (SEQUENCE,), 3 * 6 * 12),
    "conv1d, groups": Kind(
        lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2, padding_mode="circular"),
        (SEQUENCE,),
        9 * 6 * 6,
    ),
    "conv2d": Kind(
        lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), padding=(1, 0)), (IMAGE,), 3 * 6 * 6 * 24
    ),
    "conv3d": Kind(
        lambda: nn.Conv3d(4, 6, (2, 1, 3), stride=(1, 2, 1), padding=(0, 1, 1), dilation=(2, 1, 1)),
        (VOLUME,),
        (3 * 3 * 6) * 6 * 24,
    ),
    "conv3d, same": Kind(
        lambda: nn.Conv3d(4, 6, (2, 3, 1), padding="same", padding_mode="replicate"),
        (VOLUME,),
        120 * 6 * 24,
    ),
    "transposed 1d": Kind(
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, dilation=2),
        (SEQUENCE,),
        9 * 4 * 18,
    ),
    "transposed 1d, groups": Kind(
        lambda: nn.ConvTranspose1d(4, 6, 5, stride=3, padding=2, groups=2), (SEQUENCE,), 9 * 4 * 15
    ),
    "transposed 2d": Kind(
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), padding=(1, 0), output_padding=(1, 2)),
        (IMAGE,),
        42 * 4 * 36,
    ),
    "transposed 3d": Kind(
        lambda: nn.ConvTranspose3d(4, 6, (2, 1, 3), (2, 1, 1), padding=(1, 0, 2), bias=False),
        (VOLUME,),
        120 * 4 * 36,
    ),
    "bilinear": Kind(lambda: nn.Bilinear(4, 5, 8), (random(3, 6, 4), random(3, 6, 5)), 6 * 8 * 20),
    "LSTM": Kind(
        lambda: nn.LSTM(4, 6, 2, bidirectional=True, batch_first=True),
        (SEQUENCE.mT,),
        9 * 24 * 2 * (4 + 6 + 12 + 6),
        of_gates("ih", "hh", layers=2, both=True),
        linear=False,
        reads=True,
    ),
    "LSTM, projections": Kind(
        lambda: nn.LSTM(4, 6, proj_size=4, batch_first=True),
        (SEQUENCE.mT,),
        9 * (24 * (4 + 4) + 24),
        of_gates("ih", "hh", "hr"),
        linear=False,
        reads=True,
    ),
    "GRU": Kind(
        lambda: nn.GRU(4, 6, bias=False, batch_first=True),
        (SEQUENCE.mT,),
        9 * 18 * (4 + 6),
        of_gates("ih", "hh"),
        linear=False,
        reads=True,
    ),
    "RNN": Kind(
        lambda: nn.RNN(4, 6, nonlinearity="relu", batch_first=True),
        (SEQUENCE.mT,),
        9 * 6 * (4 + 6),
        of_gates("ih", "hh"),
        linear=False,
        reads=True,
    ),
    "LSTM cell": Kind(
        lambda: Steps(nn.LSTMCell(4, 6)),
        (SEQUENCE.mT,),
        9 * 24 * (4 + 6),
        ("layer.cell.ih", "layer.cell.hh"),
        linear=False,
        reads=True,
    ),
    "GRU cell": Kind(
        lambda: Steps(nn.GRUCell(4, 6, bias=False)),
        (SEQUENCE.mT,),
        9 * 18 * (4 + 6),
        ("layer.cell.ih", "layer.cell.hh"),
        linear=False,
        reads=True,
    ),
    "RNN cell": Kind(
        lambda: Steps(nn.RNNCell(4, 6, nonlinearity="relu")),
        (SEQUENCE.mT,),
        9 * 6 * (4 + 6),
        ("layer.cell.ih", "layer.cell.hh"),
        linear=False,
        reads=True,
    ),
    "attention": Kind(
        ToItself,
        (random(3, 7, 6),),
        7 * 6 * 18 + 2 * 7 * 7 * 6 + 7 * 36,
        ("layer.attention", "layer.attention.out_proj"),
        linear=False,
        reads=True,
    ),
    "attention of other sizes": Kind(
        lambda: nn.MultiheadAttention(6, 2, kdim=4, vdim=5, batch_first=True),
        (random(3, 7, 6), random(3, 8, 4), random(3, 8, 5)),
        7 * 36 + 8 * 24 + 8 * 30 + 2 * 7 * 8 * 6 + 7 * 36,
        tuple(f"layer.{name}" for name in ("out_proj", "q_proj", "k_proj", "v_proj")),
        linear=False,
        reads=True,
    ),
    "weight norm": Kind(
        lambda: parametrizations.weight_norm(nn.Linear(6, 8)), (random(3, 5, 6),), 5 * 48
    ),
    "old weight norm": Kind(
        lambda: old_norm(nn.utils.weight_norm, nn.Conv1d(4, 6, 3)), (SEQUENCE,), 7 * 6 * 12
    ),
    "spectral norm": Kind(
        lambda: parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)), (IMAGE,), 20 * 6 * 36
    ),
    "old spectral norm": Kind(
        lambda: old_norm(nn.utils.spectral_norm, nn.Linear(6, 8)), (random(3, 5, 6),), 5 * 48
    ),
    "pruned": Kind(
        lambda: prune.random_unstructured(nn.Linear(6, 8), "weight", 0.3),
        (random(3, 5, 6),),
        5 * 48,
    ),
    "any parametrization": Kind(
        lambda: parametrize.register_parametrization(nn.Linear(6, 6), "weight", Symmetric()),
        (random(3, 5, 6),),
        5 * 36,
    ),
}
