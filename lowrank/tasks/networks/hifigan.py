"""The generator of HiFi-GAN, a vocoder: from log-mel frames to a waveform."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.numerics.checks import check_integer, check_list

Layer = TypeVar("Layer", nn.Conv1d, nn.ConvTranspose1d)

# Of leaky ReLU: in the generator, and before its last layer.
SLOPE = 0.1
LAST_SLOPE = 0.01


class HiFiGANGenerator(nn.Module):
    """Transposed convolutions to the rate of the samples, each before residual blocks side by side.

    By default that of V2. Each convolution has weight normalisation, and the state dict the names
    of the authors' published one: pairs ``weight_g`` and ``weight_v``.

    Args:
        num_mels: bands of a frame.
        upsample_initial_channel: channels before the first stage; each stage halves them.
        upsample_rates: samples out for each one in, of each stage; their product is the hop of the
            frames.
        upsample_kernel_sizes: of the transposed convolutions; even where the rate is, odd else.
        resblock_kernel_sizes: one for each of the residual blocks side by side, odd.
        resblock_dilation_sizes: of the convolutions in each of these blocks.
        pre_kernel_size, post_kernel_size: of the first and the last convolution, odd.

    Shapes:
        Inputs (batch, num_mels, frames), such as `lowrank.tasks.spectrograms.vocoder_mels` makes;
        outputs (batch, 1, frames · product of the rates), samples in (−1, 1).

    Raises:
        ValueError: a number is no whole number from 1, lists differ in length, a kernel does not
            suit its rate or is even, or the channels cannot be halved so often.

    Source: Kong, Kim & Bae, NeurIPS 2020, appendix A.1 (V2).
    """

    def __init__(
        self,
        num_mels: int = 80,
        upsample_initial_channel: int = 128,
        upsample_rates: Sequence[int] = (8, 8, 2, 2),
        upsample_kernel_sizes: Sequence[int] = (16, 16, 4, 4),
        resblock_kernel_sizes: Sequence[int] = (3, 7, 11),
        resblock_dilation_sizes: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        pre_kernel_size: int = 7,
        post_kernel_size: int = 7,
    ) -> None:
        super().__init__()
        check_integer("num_mels", num_mels, least=1)
        check_integer("upsample_initial_channel", upsample_initial_channel, least=1)
        _check_stages(upsample_initial_channel, upsample_rates, upsample_kernel_sizes)
        _check_blocks(resblock_kernel_sizes, resblock_dilation_sizes)
        for name, size in {"pre": pre_kernel_size, "post": post_kernel_size}.items():
            _check_odd(f"{name}_kernel_size", size)
        channels = upsample_initial_channel
        self.conv_pre = _convolution(num_mels, channels, pre_kernel_size)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, size in zip(upsample_rates, upsample_kernel_sizes, strict=True):
            self.ups.append(_upsampling(channels, channels // 2, size, rate))
            channels //= 2
            for kernel, dilations in zip(
                resblock_kernel_sizes, resblock_dilation_sizes, strict=True
            ):
                self.resblocks.append(DilatedResidual(channels, kernel, dilations))
        self.conv_post = _convolution(channels, 1, post_kernel_size)

    def forward(self, mels: Tensor) -> Tensor:
        x = self.conv_pre(mels)
        each = len(self.resblocks) // len(self.ups)
        for stage, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            blocks = self.resblocks[each * stage : each * (stage + 1)]
            x = torch.stack([block(x) for block in blocks]).mean(dim=0)
        return self.conv_post(F.leaky_relu(x, LAST_SLOPE)).tanh()


class DilatedResidual(nn.Module):
    """Pairs of convolutions, the first of each dilated, each pair added to its input."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            _convolution(channels, channels, kernel, dilation) for dilation in dilations
        )
        self.convs2 = nn.ModuleList(_convolution(channels, channels, kernel) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


def _convolution(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Conv1d:
    padding = dilation * (kernel - 1) // 2
    return _normalised(nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=padding))


def _upsampling(inputs: int, outputs: int, kernel: int, rate: int) -> nn.ConvTranspose1d:
    padding = (kernel - rate) // 2
    return _normalised(nn.ConvTranspose1d(inputs, outputs, kernel, rate, padding))


def _normalised(layer: Layer) -> Layer:
    """A layer with weight normalisation, by the names of published generators.

    PyTorch's newer parametrization of the same computation gives the pairs other names.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)
        # Without a gradient, so that a new generator can be copied.
        return nn.utils.weight_norm(layer)


def _check_stages(channels: int, rates: Sequence[int], kernels: Sequence[int]) -> None:
    lists = {"upsample_rates": rates, "upsample_kernel_sizes": kernels}
    for name, values in lists.items():
        check_list(name, values)
        for value in values:
            check_integer(name, value, least=1)
    if not rates or len(rates) != len(kernels):
        raise ValueError(
            f"upsample_rates={list(rates)} and upsample_kernel_sizes={list(kernels)} must be as "
            "many, one of each for a stage"
        )
    for rate, kernel in zip(rates, kernels, strict=True):
        if kernel < rate or (kernel - rate) % 2:
            raise ValueError(
                f"upsample_kernel_sizes={list(kernels)}: {kernel} must be the rate {rate} or more "
                "by an even number, so that there are as many samples as the rate says"
            )
    if channels >> len(rates) == 0:
        raise ValueError(
            f"upsample_initial_channel={channels} cannot be halved {len(rates)} times; give at "
            f"least {2 ** len(rates)}"
        )


def _check_blocks(kernels: Sequence[int], dilations: Sequence[Sequence[int]]) -> None:
    check_list("resblock_kernel_sizes", kernels)
    check_list("resblock_dilation_sizes", dilations)
    if not kernels or len(kernels) != len(dilations):
        raise ValueError(
            f"resblock_kernel_sizes={list(kernels)} and resblock_dilation_sizes={list(dilations)} "
            "must be as many, one of each for a block"
        )
    for kernel, sizes in zip(kernels, dilations, strict=True):
        _check_odd("resblock_kernel_sizes", kernel)
        check_list("resblock_dilation_sizes", sizes)
        for size in sizes:
            check_integer("resblock_dilation_sizes", size, least=1)


def _check_odd(name: str, size: int) -> None:
    check_integer(name, size, least=1)
    if not size % 2:
        raise ValueError(f"{name}: {size} must be odd, so that the length stays")
