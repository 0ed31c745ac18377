"""ESPNet, a segmentation network of dilated convolutions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.numerics.checks import check_integer, check_list


class ESPNet(nn.Module):
    """ESPNet with its decoder: a class for each pixel of an image.

    The state dict has the names of the authors' published one, and beside them the counters of
    batches of BatchNorm, which PyTorch did not count then and does not ask for in loading it.

    Args:
        num_classes: channels of the outputs.
        p: ESP blocks at a quarter of the size.
        q: ESP blocks at an eighth of the size.
        stem_channels, level2_channels, level3_channels: channels at a half, a quarter and an eighth
            of the size.
        dilations: of the convolutions side by side in a block; each level has at least as many
            channels.
        batch_norm_eps: added to the variances.

    Shapes:
        Inputs (batch, 3, height, width), both multiples of 8; outputs, logits, (batch, num_classes,
        height, width).

    Raises:
        ValueError: a number is no whole number from 1, there are too few channels or classes for
            the dilations, or two dilations are the same.

    Source: Mehta, Rastegari, Caspi, Shapiro & Hajishirzi, ECCV 2018.
    """

    def __init__(
        self,
        num_classes: int,
        p: int = 2,
        q: int = 8,
        stem_channels: int = 16,
        level2_channels: int = 64,
        level3_channels: int = 128,
        dilations: Sequence[int] = (1, 2, 4, 8, 16),
        batch_norm_eps: float = 1e-3,
    ) -> None:
        super().__init__()
        _check_dilations(dilations)
        counts = {"num_classes": num_classes, "level2_channels": level2_channels}
        for name, value in (counts | {"level3_channels": level3_channels}).items():
            check_integer(name, value, least=len(dilations))
        for name, value in {"p": p, "q": q, "stem_channels": stem_channels}.items():
            check_integer(name, value, least=1)
        classes, eps = num_classes, batch_norm_eps
        levels = (stem_channels, level2_channels, level3_channels)
        self.encoder = ESPNetEncoder(classes, p, q, levels, dilations, eps)
        half, quarter = self.encoder.joined[:2]
        self.br = nn.BatchNorm2d(classes, eps)
        self.up_l3 = nn.Sequential(_doubling(classes))
        self.level3_C = _convolution(quarter, classes, 1)
        self.combine_l2_l3 = nn.Sequential(
            _normalised(2 * classes, eps),
            ESPBlock(2 * classes, classes, dilations, eps, shortcut=False),
        )
        self.up_l2 = nn.Sequential(_doubling(classes), _normalised(classes, eps))
        self.conv = _convolution(classes + half, classes, 3, eps=eps)
        self.classifier = _doubling(classes)

    def forward(self, images: Tensor) -> Tensor:
        at_half, at_quarter, at_eighth = self.encoder(images)
        up = self.up_l3(self.br(at_eighth))
        up = self.combine_l2_l3(torch.cat([self.level3_C(at_quarter), up], dim=1))
        up = self.conv(torch.cat([self.up_l2(up), at_half], dim=1))
        return self.classifier(up)


class ESPNetEncoder(nn.Module):
    """What ESPNet makes of an image at a half, a quarter and an eighth of its size.

    Args:
        levels: channels at these three sizes.

    Attributes:
        joined: the channels at these sizes where the image, or the input of the blocks, is joined.
    """

    def __init__(
        self,
        classes: int,
        p: int,
        q: int,
        levels: tuple[int, int, int],
        dilations: Sequence[int],
        eps: float,
    ) -> None:
        super().__init__()
        first, second, third = levels
        self.joined = (first + 3, 2 * second + 3, 2 * third)
        half, quarter, eighth = self.joined
        self.level1 = _convolution(3, first, 3, stride=2, eps=eps)
        self.b1 = _normalised(half, eps)
        self.level2_0 = DownBlock(half, second, dilations, eps)
        self.level2 = nn.Sequential(
            *(ESPBlock(second, second, dilations, eps, shortcut=True) for _ in range(p))
        )
        self.b2 = _normalised(quarter, eps)
        self.level3_0 = DownBlock(quarter, third, dilations, eps)
        self.level3 = nn.Sequential(
            *(ESPBlock(third, third, dilations, eps, shortcut=True) for _ in range(q))
        )
        self.b3 = _normalised(eighth, eps)
        self.classifier = _convolution(eighth, classes, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        smaller = _halved(images)
        at_half = self.b1(torch.cat([self.level1(images), smaller], dim=1))
        down = self.level2_0(at_half)
        at_quarter = self.b2(torch.cat([self.level2(down), down, _halved(smaller)], dim=1))
        down = self.level3_0(at_quarter)
        # The input comes before what the blocks make of it, unlike above.
        at_eighth = self.b3(torch.cat([down, self.level3(down)], dim=1))
        return at_half, at_quarter, self.classifier(at_eighth)


class DilatedPyramid(nn.Module):
    """A reduction to few channels, and dilated convolutions of them side by side.

    Results from the second dilation on are summed up one after the other, which takes the grid away
    that dilated convolutions leave. The first one has the channels that the division leaves over.
    """

    def __init__(
        self, inputs: int, outputs: int, dilations: Sequence[int], kernel: int, stride: int
    ) -> None:
        super().__init__()
        width = outputs // len(dilations)
        rest = outputs - width * (len(dilations) - 1)
        self.c1 = _convolution(inputs, width, kernel, stride)
        self.names = [f"d{dilation}" for dilation in dilations]
        for name, dilation in zip(self.names, dilations, strict=True):
            channels = rest if name == self.names[0] else width
            self.add_module(name, _convolution(width, channels, 3, dilation=dilation))

    def pyramid(self, x: Tensor) -> Tensor:
        """(batch, outputs, height, width), sizes divided by the stride."""
        reduced = self.c1(x)
        first, *others = (self.get_submodule(name)(reduced) for name in self.names)
        sums = others[:1]
        for other in others[1:]:
            sums.append(sums[-1] + other)
        return torch.cat([first, *sums], dim=1)


class DownBlock(DilatedPyramid):
    """A dilated pyramid at half the size."""

    def __init__(self, inputs: int, outputs: int, dilations: Sequence[int], eps: float) -> None:
        super().__init__(inputs, outputs, dilations, kernel=3, stride=2)
        self.bn = nn.BatchNorm2d(outputs, eps)
        self.act = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.pyramid(x)))


class ESPBlock(DilatedPyramid):
    """A dilated pyramid at the size of its input, perhaps added to it."""

    def __init__(
        self, inputs: int, outputs: int, dilations: Sequence[int], eps: float, shortcut: bool
    ) -> None:
        super().__init__(inputs, outputs, dilations, kernel=1, stride=1)
        self.bn = _normalised(outputs, eps)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.pyramid(x)
        return self.bn(x + y if self.shortcut else y)


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    eps: float | None = None,
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride; normalised and activated with `eps`."""
    padding = dilation * (kernel - 1) // 2
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    after = {} if eps is None else dict(_normalised(outputs, eps).named_children())
    return nn.Sequential(OrderedDict(conv=layer, **after))


def _normalised(channels: int, eps: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict[str, nn.Module](bn=nn.BatchNorm2d(channels, eps), act=nn.PReLU(channels))
    )


def _doubling(channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)


def _halved(images: Tensor) -> Tensor:
    return F.avg_pool2d(images, 3, stride=2, padding=1)


def _check_dilations(dilations: Sequence[int]) -> None:
    check_list("dilations", dilations)
    for dilation in dilations:
        check_integer("dilations", dilation, least=1)
    if len(dilations) < 2 or len(set(dilations)) < len(dilations):
        raise ValueError(f"dilations={list(dilations)} must be two or more, all different")
