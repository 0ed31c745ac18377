"""The residual networks for CIFAR-10."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.numerics.checks import check_integer


class CifarResNet(nn.Module):
    """The residual networks for CIFAR-10 with parameter-free shortcuts ("option A").

    Three stages of 16, 32 and 64 channels with (depth − 2) / 6 blocks each; 0.27, 0.46 and 0.85
    million parameters at depth 20, 32 and 56. Inputs (batch, 3, 32, 32).

    Raises:
        ValueError: depth is not 6n + 2.

    Source: He, Zhang, Ren & Sun, CVPR 2016, section 4.2.
    """

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        check_integer("depth", depth)
        check_integer("classes", classes, least=1)
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"depth={depth} must be 6n + 2, such as 20, 32, 44 or 56")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What `linear` makes scores of, (batch, 64)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean(dim=(2, 3))


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut that subsamples and pads with zero channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.padding = (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        subsampled = x[:, :, :: self.stride, :: self.stride]
        # Equal numbers of zero channels before and after.
        return F.relu(y + F.pad(subsampled, (0, 0, 0, 0, self.padding, self.padding)))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))
