"""BC-ResNet, a keyword network that adds what it finds over time to all frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.numerics.checks import check_integer, check_list, check_number


class BCResNet(nn.Module):
    """A broadcasted residual network for spoken words.

    The state dict has the names of the published one of github.com/re9ulus/BC-ResNet, whose variant
    this is: the first block of a stage changes the channels, all others keep them.

    Args:
        num_classes: words.
        stem_channels: of the first convolution.
        stage_channels: in each of the stages.
        stage_blocks: blocks of each stage, its first one counted.
        stage_dilations: along time, in each stage.
        stage_strides: along frequency, in each stage.
        sub_bands: runs of frequencies that are normalised apart; they divide the frequencies of
            every stage.
        head_groups: of the convolution that ends frequency; they divide the last channels.
        head_channels: before the classes.
        dropout: the chance that a channel of a block is dropped in training.

    Shapes:
        Inputs (batch, 1, frequencies, frames), of log-mel frames such as
        `lowrank.tasks.spectrograms.keyword_mels` makes, 40 frequencies with these strides; outputs
        (batch, num_classes), logarithms of probabilities.

    Raises:
        ValueError: a number is no whole number from 1, the lists differ in length, or `head_groups`
            does not divide the channels.

    Source: Kim, Chang, Lee & Sung, Interspeech 2021.
    """

    def __init__(
        self,
        num_classes: int,
        stem_channels: int = 32,
        stage_channels: Sequence[int] = (16, 24, 32, 40),
        stage_blocks: Sequence[int] = (2, 2, 4, 4),
        stage_dilations: Sequence[int] = (1, 2, 4, 8),
        stage_strides: Sequence[int] = (1, 2, 2, 1),
        sub_bands: int = 5,
        head_groups: int = 20,
        head_channels: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        numbers = {"num_classes": num_classes, "stem_channels": stem_channels}
        numbers |= {"sub_bands": sub_bands, "head_groups": head_groups}
        for name, value in (numbers | {"head_channels": head_channels}).items():
            check_integer(name, value, least=1)
        check_number("dropout", dropout, "lie in [0, 1)", lambda x: 0 <= x < 1)
        stages = _stages(stage_channels, stage_blocks, stage_dilations, stage_strides)
        self.input_conv = nn.Conv2d(1, stem_channels, 5, stride=(2, 1), padding=2)
        inputs, self.names = stem_channels, []
        for stage, (channels, blocks, dilation, stride) in enumerate(stages, start=1):
            own: dict[str, nn.Module] = {
                f"n{stage}{place}": NormalBlock(channels, dilation, sub_bands, dropout)
                for place in range(1, blocks)
            }
            first = TransitionBlock(inputs, channels, dilation, stride, sub_bands, dropout)
            for name, block in ({f"t{stage}": first} | own).items():
                self.add_module(name, block)
                self.names.append(name)
            inputs = channels
        if inputs % head_groups:
            raise ValueError(f"head_groups={head_groups} must divide the last {inputs} channels")
        self.dw_conv = nn.Conv2d(inputs, inputs, 5, groups=head_groups)
        self.onexone_conv = nn.Conv2d(inputs, head_channels, 1)
        self.head_conv = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, mels: Tensor) -> Tensor:
        return F.log_softmax(self.head_conv(self.features(mels)).flatten(1), dim=1)

    def features(self, mels: Tensor) -> Tensor:
        """What `head_conv` makes scores of, (batch, head channels, 1, 1)."""
        x = self.input_conv(mels)
        for name in self.names:
            x = self.get_submodule(name)(x)
        return self.onexone_conv(self.dw_conv(x)).mean(dim=3, keepdim=True)


class SubBandNorm(nn.Module):
    """Batch normalisation of each run of neighbouring frequencies of each channel."""

    def __init__(self, channels: int, bands: int) -> None:
        super().__init__()
        self.bands = bands
        self.bn = nn.BatchNorm2d(channels * bands)

    def forward(self, x: Tensor) -> Tensor:
        # Neighbouring rows of one channel lie together, so its bands follow one another.
        apart = x.unflatten(2, (self.bands, -1)).flatten(1, 2)
        return self.bn(apart).reshape(x.shape)


class BroadcastBlock(nn.Module):
    """`f1`: what is done with the mean over the frequencies, and added to all of them."""

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        padding, apart = (0, dilation), (1, dilation)
        self.f1 = nn.Sequential(
            nn.Conv2d(channels, channels, (1, 3), 1, padding, apart, groups=channels),
            nn.BatchNorm2d(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 1),
            nn.Dropout2d(dropout),
        )

    def broadcast(self, x: Tensor) -> Tensor:
        """(batch, channels, 1, frames)."""
        return self.f1(x.mean(dim=2, keepdim=True))


class NormalBlock(BroadcastBlock):
    """A block that keeps the shape of its input and is added to it."""

    def __init__(self, channels: int, dilation: int, bands: int, dropout: float) -> None:
        super().__init__(channels, dilation, dropout)
        self.f2 = nn.Sequential(_along_frequency(channels, 1), SubBandNorm(channels, bands))

    def forward(self, x: Tensor) -> Tensor:
        found = self.f2(x)
        return F.relu(x + found + self.broadcast(found))


class TransitionBlock(BroadcastBlock):
    """A block that changes the channels, perhaps with fewer frequencies, without a shortcut."""

    def __init__(
        self, inputs: int, channels: int, dilation: int, stride: int, bands: int, dropout: float
    ) -> None:
        super().__init__(channels, dilation, dropout)
        self.f2 = nn.Sequential(
            nn.Conv2d(inputs, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            _along_frequency(channels, stride),
            SubBandNorm(channels, bands),
        )

    def forward(self, x: Tensor) -> Tensor:
        found = self.f2(x)
        return F.relu(found + self.broadcast(found))


def _along_frequency(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, (3, 1), (stride, 1), padding=(1, 0), groups=channels)


def _stages(
    channels: Sequence[int], blocks: Sequence[int], dilations: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int, int, int]]:
    lists = {"stage_channels": channels, "stage_blocks": blocks}
    lists |= {"stage_dilations": dilations, "stage_strides": strides}
    for name, values in lists.items():
        check_list(name, values)
        for value in values:
            check_integer(name, value, least=1)
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1 or not channels:
        raise ValueError(f"there must be a number for each stage, and there are {lengths}")
    return list(zip(channels, blocks, dilations, strides, strict=True))
