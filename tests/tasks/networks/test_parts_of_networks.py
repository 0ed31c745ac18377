"""The parts of the networks with published weights, against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import Uncompressed
from lowrank.tasks.networks.bc_resnet import BCResNet, SubBandNorm
from lowrank.tasks.networks.espnet import DownBlock, ESPBlock, ESPNet
from lowrank.tasks.networks.fastestdet import FastestDet, ShuffleBlock
from lowrank.tasks.networks.hifigan import HiFiGANGenerator


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def silent(layer):
    nn.init.zeros_(layer.weight)


def test_a_pyramid_sums_up_from_its_second_dilation_on():
    block = ESPBlock(6, 11, (1, 2, 4), 1e-3, shortcut=False).eval()
    x = random(1, 6, 12, 12)
    reduced = block.c1(x)
    parts = [
        F.conv2d(reduced, getattr(block, f"d{d}").conv.weight, padding=d, dilation=d)
        for d in (1, 2, 4)
    ]
    # 11 channels are 3 for each dilation, and 5 for the first.
    assert [part.shape[1] for part in parts] == [5, 3, 3]
    expected = torch.cat([parts[0], parts[1], parts[1] + parts[2]], dim=1)
    torch.testing.assert_close(block.pyramid(x), expected)


def test_a_block_with_a_shortcut_adds_its_input():
    block = ESPBlock(10, 10, (1, 2, 4, 8, 16), 0.0, shortcut=True).eval()
    silent(block.c1.conv)
    x = random(1, 10, 8, 8)
    torch.testing.assert_close(block(x), F.prelu(x, block.bn.act.weight))


def test_a_down_block_halves_the_size():
    assert DownBlock(4, 10, (1, 2), 1e-3)(random(2, 4, 10, 14)).shape == (2, 10, 5, 7)


def test_each_run_of_frequencies_of_a_channel_is_normalised_by_itself():
    norm = SubBandNorm(3, 2).train()
    x = random(4, 3, 6, 5)
    y = norm(x)
    for channel in range(3):
        for band in range(2):
            rows = slice(3 * band, 3 * band + 3)
            own = x[:, channel, rows]
            torch.testing.assert_close(
                y[:, channel, rows],
                (own - own.mean()) / (own.var(unbiased=False) + 1e-5).sqrt(),
            )
            number = 2 * channel + band
            torch.testing.assert_close(norm.bn.running_mean[number], 0.1 * own.mean())


def test_frequencies_that_cannot_be_cut_into_bands():
    with pytest.raises(RuntimeError, match="unflatten"):
        SubBandNorm(3, 4)(random(1, 3, 6, 5))


def test_a_block_hands_every_second_channel_on():
    block = ShuffleBlock(8).eval()
    x = random(2, 8, 5, 5)
    y = block(x)
    assert torch.equal(y[:, :4], x[:, [0, 2, 4, 6]])
    changed = x.clone()
    changed[:, [0, 2, 4, 6]] += 1
    assert torch.equal(block(changed)[:, 4:], y[:, 4:])


def test_what_a_detector_says_of_a_cell_are_probabilities():
    maps = FastestDet(7).eval()(random(2, 3, 64, 64))
    assert maps.shape == (2, 12, 4, 4)
    assert ((maps[:, 0] > 0) & (maps[:, 0] < 1)).all()
    torch.testing.assert_close(maps[:, 5:].sum(dim=1), torch.ones(2, 4, 4))


def test_probabilities_of_words_sum_to_one():
    outputs = BCResNet(5).eval()(random(2, 1, 40, 32))
    torch.testing.assert_close(outputs.exp().sum(dim=1), torch.ones(2))


def test_a_generator_makes_as_many_samples_as_its_rates_say():
    generator = HiFiGANGenerator(
        num_mels=5,
        upsample_initial_channel=8,
        upsample_rates=[3, 2],
        upsample_kernel_sizes=[7, 2],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 2]],
    )
    samples = generator(random(2, 5, 4))
    assert samples.shape == (2, 1, 24) and samples.abs().max() < 1


def test_the_weight_of_a_generator_is_its_length_times_its_direction():
    """Of a transposed convolution the first axis is that of the inputs."""
    generator = HiFiGANGenerator()
    up = generator.ups[0]
    assert up.weight_g.shape == (128, 1, 1)
    with torch.no_grad():
        up.weight_g.mul_(2)
    length = up.weight_v.norm(dim=(1, 2), keepdim=True)
    expected = up.weight_g * up.weight_v / length
    compact = compress(generator, Uncompressed(), where="ups.0").model
    torch.testing.assert_close(compact.get_submodule("ups.0").weight, expected)
    assert "ups.0.weight_g" not in compact.state_dict() and "ups.1.weight_g" in compact.state_dict()


BAD = {
    "no classes": (lambda: ESPNet(0), "num_classes=0 must be at least 5"),
    "fewer classes than dilations": (lambda: ESPNet(4), "num_classes=4 must be at least 5"),
    "one dilation": (lambda: ESPNet(12, dilations=[1]), "must be two or more, all different"),
    "a dilation twice": (lambda: ESPNet(12, dilations=[1, 2, 2]), "all different"),
    "no blocks": (lambda: ESPNet(12, p=0), "p=0 must be at least 1"),
    "two stages": (lambda: FastestDet(80, stage_repeats=[4, 8]), "must be three numbers"),
    "an odd width": (lambda: FastestDet(80, stage_channels=[48, 95, 192]), "must be even"),
    "a stage that does not grow": (lambda: FastestDet(80, stage_channels=[24, 96, 192]), "grow"),
    "an even kernel": (lambda: FastestDet(80, depthwise_kernel=4), "=4 must be odd"),
    "no branch": (lambda: FastestDet(80, spp_depths=[]), "at least one branch"),
    "stages of other numbers": (lambda: BCResNet(35, stage_blocks=[2, 2]), "'stage_blocks': 2"),
    "groups that do not divide": (lambda: BCResNet(35, head_groups=7), "head_groups=7 must divide"),
    "dropout of all": (lambda: BCResNet(35, dropout=1), "dropout=1 must lie in"),
    "one kernel too few": (
        lambda: HiFiGANGenerator(upsample_kernel_sizes=[16, 16, 4]),
        "must be as many, one of each for a stage",
    ),
    "a kernel below its rate": (
        lambda: HiFiGANGenerator(upsample_kernel_sizes=[16, 4, 4, 4]),
        "4 must be the rate 8 or more",
    ),
    "too few channels": (
        lambda: HiFiGANGenerator(upsample_initial_channel=8),
        "cannot be halved 4 times; give at least 16",
    ),
    "blocks without dilations": (
        lambda: HiFiGANGenerator(resblock_dilation_sizes=[[1]]),
        "must be as many, one of each for a block",
    ),
    "an even block": (
        lambda: HiFiGANGenerator(resblock_kernel_sizes=[3, 7, 10]),
        "resblock_kernel_sizes: 10 must be odd",
    ),
}


@pytest.mark.parametrize(("make", "text"), BAD.values(), ids=BAD.keys())
def test_arguments_that_make_no_network(make, text):
    with pytest.raises(ValueError, match=text):
        make()
