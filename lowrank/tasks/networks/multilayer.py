"""Multilayer perceptrons."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from lowrank.numerics.checks import check_integer


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers fc1, fc2, … with ReLU between them, on flattened inputs.

    ``mlp([784, 300, 100, 10])`` is LeNet-300-100 (LeCun et al., Proceedings of the IEEE 86(11),
    1998), with ReLU as in Han et al. 2015.

    Args:
        widths: inputs, hidden units of each layer, outputs.

    Raises:
        ValueError: fewer than two widths, or one that is no whole number from 1.
    """
    if not isinstance(widths, Sequence) or len(widths) < 2:
        raise ValueError(f"widths={widths!r} must be a list of at least inputs and outputs")
    for width in widths:
        check_integer("widths", width, least=1)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False), start=1):
        layers[f"fc{number}"] = nn.Linear(inputs, outputs)
        layers[f"relu{number}"] = nn.ReLU()
    layers.popitem()
    return nn.Sequential(layers)
