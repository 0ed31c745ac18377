import pytest
import torch
import torch.nn.functional as F

from lowrank.tasks.networks.cifar_resnet import BasicBlock, CifarResNet
from lowrank.tasks.networks.convolutional import lenet5, small_cnn
from lowrank.tasks.networks.multilayer import mlp


def params(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "model, expected, shape",
    [
        # He et al. 2016, table 6: 0.27, 0.46 and 0.85 million.
        (CifarResNet(20), 269_722, (3, 32, 32)),
        (CifarResNet(32), 464_154, (3, 32, 32)),
        (CifarResNet(56), 853_018, (3, 32, 32)),
        # Han et al. 2015, table 1: 267 thousand and 431 thousand.
        (mlp([784, 300, 100, 10]), 266_610, (1, 28, 28)),
        (lenet5(), 431_080, (1, 28, 28)),
        (mlp([64, 128, 64, 10]), 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10, (1, 8, 8)),
        (small_cnn(), 144 + 32 + 4608 + 64 + 512 * 64 + 64 + 64 * 10 + 10, (1, 8, 8)),
    ],
)
def test_sizes_are_the_published_ones(model, expected, shape):
    assert params(model) == expected
    assert model.eval()(torch.zeros(2, *shape)).shape == (2, 10)


def test_the_shortcut_subsamples_and_pads_with_zero_channels():
    block = BasicBlock(4, 8).eval()
    torch.nn.init.zeros_(block.bn2.weight)  # the branch is silent: only the shortcut is left
    x = torch.rand(2, 4, 6, 6)
    y = block(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 6:].any()


def test_a_block_that_keeps_its_shape_adds_its_input():
    block = BasicBlock(4, 4).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), F.relu(x))


@pytest.mark.parametrize("depth", [2, 8 + 1, 21, 0, -4])
def test_a_depth_that_no_network_has(depth):
    with pytest.raises(ValueError, match=f"depth={depth} must be 6n"):
        CifarResNet(depth)


def test_too_few_widths():
    with pytest.raises(ValueError, match="widths=.64. must be a list of at least"):
        mlp([64])
