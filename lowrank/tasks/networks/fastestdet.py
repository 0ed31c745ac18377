"""FastestDet, a detector without anchors on one grid of cells."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.numerics.checks import check_integer, check_list

# Of batch norm in all layers.
EPS = 1e-5


class FastestDet(nn.Module):
    """A ShuffleNetV2, a neck of depthwise convolutions, and for each cell a box with its class.

    The state dict has the names of the author's published one.

    Args:
        num_classes: classes of boxes.
        stem_channels: of the first convolution.
        stage_repeats: blocks in each of the three stages.
        stage_channels: channels out of each stage, even, each more than the one before.
        neck_channels: in the neck and the head.
        spp_depths: depthwise convolutions, one after the other, in each branch of the neck.
        depthwise_kernel: their size, odd; also of the head's.

    Shapes:
        Inputs (batch, 3, height, width), both multiples of 32; outputs (batch, 5 + num_classes,
        height / 16, width / 16): objectness in (0, 1), four numbers of the box, and probabilities
        of the classes; `lowrank.tasks.boxes.detections` reads them.

    Raises:
        ValueError: a number is no whole number from 1, there are not three stages, stages do not
            grow, a width is odd, the kernel is even, or the neck has no branch.

    Source: github.com/dog-qiuqiu/FastestDet; Ma, Zhang, Zheng & Sun, ECCV 2018 (ShuffleNetV2).
    """

    def __init__(
        self,
        num_classes: int,
        stem_channels: int = 24,
        stage_repeats: Sequence[int] = (4, 8, 4),
        stage_channels: Sequence[int] = (48, 96, 192),
        neck_channels: int = 96,
        spp_depths: Sequence[int] = (1, 2, 3),
        depthwise_kernel: int = 5,
    ) -> None:
        super().__init__()
        numbers = {"num_classes": num_classes, "stem_channels": stem_channels}
        numbers |= {"neck_channels": neck_channels, "depthwise_kernel": depthwise_kernel}
        for name, value in numbers.items():
            check_integer(name, value, least=1)
        lists = {"stage_repeats": stage_repeats, "stage_channels": stage_channels}
        for name, values in (lists | {"spp_depths": spp_depths}).items():
            check_list(name, values)
            for value in values:
                check_integer(name, value, least=1)
        for name, values in lists.items():
            if len(values) != 3:
                raise ValueError(f"{name}={list(values)} must be three numbers, one for each stage")
        _check_sides(stem_channels, stage_channels, depthwise_kernel)
        if not spp_depths:
            raise ValueError("spp_depths must hold the depth of at least one branch")
        self.backbone = ShuffleBackbone(stem_channels, stage_repeats, stage_channels)
        self.SPP = SpatialPyramid(sum(stage_channels), neck_channels, spp_depths, depthwise_kernel)
        self.detect_head = DetectionHead(neck_channels, num_classes, depthwise_kernel)

    def forward(self, images: Tensor) -> Tensor:
        large, middle, small = self.backbone(images)
        large = F.avg_pool2d(large, 3, stride=2, padding=1)
        small = F.interpolate(small, scale_factor=2.0, mode="nearest")
        return self.detect_head(self.SPP(torch.cat([large, middle, small], dim=1)))


class ShuffleBackbone(nn.Module):
    """ShuffleNetV2: features at an eighth, a sixteenth and a thirty-second of the size."""

    def __init__(self, stem: int, repeats: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.first_conv = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem, EPS),
            nn.ReLU(),
        )
        inputs = (stem, *channels)
        self.stage2 = _stage(inputs[0], channels[0], repeats[0])
        self.stage3 = _stage(inputs[1], channels[1], repeats[1])
        self.stage4 = _stage(inputs[2], channels[2], repeats[2])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(self.first_conv(images), 3, stride=2, padding=1)
        large = self.stage2(x)
        middle = self.stage3(large)
        return large, middle, self.stage4(middle)


class ShuffleDownBlock(nn.Module):
    """Two branches from all channels, at half the size, one after the other in the output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch_main = nn.Sequential(
            *_pointwise(inputs, outputs // 2),
            nn.ReLU(),
            *_depthwise(outputs // 2, 3, stride=2),
            *_pointwise(outputs // 2, outputs - inputs),
            nn.ReLU(),
        )
        self.branch_proj = nn.Sequential(
            *_depthwise(inputs, 3, stride=2), *_pointwise(inputs, inputs), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch_proj(x), self.branch_main(x)], dim=1)


class ShuffleBlock(nn.Module):
    """Every second channel as it is, then what a branch makes of the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch_main = nn.Sequential(
            *_pointwise(half, half),
            nn.ReLU(),
            *_depthwise(half, 3),
            *_pointwise(half, half),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 0::2], self.branch_main(x[:, 1::2])], dim=1)


class SpatialPyramid(nn.Module):
    """Branches of depthwise convolutions of growing depth, joined and added to their input."""

    def __init__(self, inputs: int, channels: int, depths: Sequence[int], kernel: int) -> None:
        super().__init__()
        self.Conv1x1 = _reduction(inputs, channels)
        self.names = [f"S{number}" for number in range(1, len(depths) + 1)]
        for name, depth in zip(self.names, depths, strict=True):
            layers = [
                layer for _ in range(depth) for layer in (*_depthwise(channels, kernel), nn.ReLU())
            ]
            self.add_module(name, nn.Sequential(*layers))
        self.output = nn.Sequential(*_pointwise(len(depths) * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv1x1(x)
        branches = [self.get_submodule(name)(x) for name in self.names]
        return F.relu(x + self.output(torch.cat(branches, dim=1)))


class DetectionHead(nn.Module):
    """For each cell objectness, the box and the probabilities of the classes."""

    def __init__(self, channels: int, classes: int, kernel: int) -> None:
        super().__init__()
        self.conv1x1 = _reduction(channels, channels)
        self.obj_layers = _branch(channels, 1, kernel)
        self.reg_layers = _branch(channels, 4, kernel)
        self.cls_layers = _branch(channels, classes, kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1x1(x)
        objectness, classes = self.obj_layers(x).sigmoid(), self.cls_layers(x).softmax(dim=1)
        return torch.cat([objectness, self.reg_layers(x), classes], dim=1)


def _stage(inputs: int, outputs: int, repeats: int) -> nn.Sequential:
    others = (ShuffleBlock(outputs) for _ in range(repeats - 1))
    return nn.Sequential(ShuffleDownBlock(inputs, outputs), *others)


def _pointwise(inputs: int, outputs: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs, EPS)


def _depthwise(channels: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    padding = kernel // 2
    layer = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
    return layer, nn.BatchNorm2d(channels, EPS)


def _reduction(inputs: int, outputs: int) -> nn.Sequential:
    layers = nn.Sequential(*_pointwise(inputs, outputs), nn.ReLU())
    return nn.Sequential(OrderedDict(conv1x1=layers))


def _branch(channels: int, outputs: int, kernel: int) -> nn.Sequential:
    before, after = _depthwise(channels, kernel), _pointwise(channels, outputs)
    return nn.Sequential(OrderedDict(conv5x5=nn.Sequential(*before, nn.ReLU(), *after)))


def _check_sides(stem: int, channels: Sequence[int], kernel: int) -> None:
    odd = [number for number in channels if number % 2]
    if odd:
        raise ValueError(f"stage_channels={list(channels)} must be even: a block takes half")
    if not kernel % 2:
        raise ValueError(f"depthwise_kernel={kernel} must be odd, so that the size stays")
    sides = (stem, *channels)
    if any(inputs >= outputs for inputs, outputs in zip(sides, channels, strict=False)):
        raise ValueError(
            f"stage_channels={list(channels)} must grow from stem_channels={stem} on: the first "
            "block of a stage keeps the channels of its input beside new ones"
        )
