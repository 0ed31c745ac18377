"""Small networks of convolutions and linear layers."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from lowrank.numerics.checks import check_integer


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
