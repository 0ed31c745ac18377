"""The networks of the built-in image tasks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

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


def small_cnn(classes: int = 10) -> nn.Sequential:
    """Two 3 × 3 convolutions with BatchNorm and two linear layers, for 8 × 8 grey images."""
    check_integer("classes", classes, least=1)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, padding=1, bias=False),
            bn2=nn.BatchNorm2d(32),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(512, 64),
            relu3=nn.ReLU(),
            fc2=nn.Linear(64, classes),
        )
    )


def lenet5(classes: int = 10) -> nn.Sequential:
    """LeNet-5 of the pruning literature (Caffe's, 431,080 parameters), for 28 × 28 images.

    It is wider than the original of 1998 and has ReLU; Han et al. 2015 report a test error of 0.80
    %.
    """
    check_integer("classes", classes, least=1)
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(800, 500),
            relu=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )


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
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


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
