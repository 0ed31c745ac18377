"""The networks whose published weights the mirror of the hub has, and what is known of them."""

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from lowrank.tasks import hub
from lowrank.tasks.networks.bc_resnet import BCResNet
from lowrank.tasks.networks.espnet import ESPNet
from lowrank.tasks.networks.fastestdet import FastestDet
from lowrank.tasks.networks.hifigan import HiFiGANGenerator

HUB = os.environ.get("LOWRANK_HUB", "")
needs_mirror = pytest.mark.skipif(not HUB, reason="needs a mirror of the hub")


@dataclass(frozen=True)
class Published:
    """A network and what is known of it beforehand.

    Attributes:
        make: the network, of the sizes of its published weights.
        inputs, outputs: shapes of two small examples.
        arguments: of `make`, which the config beside the weights has by the same names.
        params: how many.
        layers: how many weights can be compressed.
    """

    make: Callable[..., nn.Module]
    repository: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    arguments: tuple[str, ...]
    params: int
    layers: int

    def made(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        classes = {name: CLASSES[self.make] for name in self.arguments if name == "num_classes"}
        return self.make(**classes).eval()

    def example(self) -> torch.Tensor:
        return torch.randn(self.inputs, generator=torch.Generator().manual_seed(1))


CLASSES = {ESPNet: 12, FastestDet: 80, BCResNet: 35}

NETWORKS = {
    "ESPNet": Published(
        ESPNet,
        "sacmehta/espnet-camvid",
        (2, 3, 24, 32),
        (2, 12, 24, 32),
        (
            *("num_classes", "p", "q", "stem_channels", "level2_channels", "level3_channels"),
            *("dilations", "batch_norm_eps"),
        ),
        354_517,
        # Pyramids of 6 convolutions each in 2 + 2 + 8 + 1 blocks, and 8 others.
        13 * 6 + 7,
    ),
    "FastestDet": Published(
        FastestDet,
        "dog-qiuqiu/fastestdet-coco",
        (2, 3, 64, 96),
        (2, 85, 4, 6),
        (
            *("num_classes", "stem_channels", "stage_repeats", "stage_channels"),
            *("neck_channels", "spp_depths", "depthwise_kernel"),
        ),
        244_490,
        # The stem; 5 in each first and 3 in each other block; 8 in the neck, 7 in the head.
        1 + 3 * 5 + 13 * 3 + 8 + 7,
    ),
    "BC-ResNet": Published(
        BCResNet,
        "re9ulus/bc-resnet-2",
        (2, 1, 40, 32),
        (2, 35),
        (
            *("num_classes", "stem_channels", "stage_channels", "stage_blocks"),
            *("stage_dilations", "stage_strides", "sub_bands", "head_groups", "head_channels"),
            "dropout",
        ),
        30_939,
        # 4 in each first and 3 in each other block, and 4 around them.
        4 * 4 + 8 * 3 + 4,
    ),
    "HiFi-GAN": Published(
        HiFiGANGenerator,
        "jik876/hifigan-lj-v2",
        (2, 80, 3),
        (2, 1, 768),
        (
            *("num_mels", "upsample_initial_channel", "upsample_rates", "upsample_kernel_sizes"),
            *("resblock_kernel_sizes", "resblock_dilation_sizes"),
            *("pre_kernel_size", "post_kernel_size"),
        ),
        928_514,
        # 6 in each of 12 blocks, 4 that are transposed, the first and the last.
        12 * 6 + 4 + 2,
    ),
}


def config(network: Published) -> dict:
    return json.loads(Path(HUB, "models", network.repository, "config.json").read_text())


def filled(network: Published) -> nn.Module:
    """The network as its published config says, with the published weights."""
    said = config(network)
    model = network.make(**{name: said[name] for name in network.arguments})
    model.load_state_dict(hub.load_weights(network.repository, None), strict=True)
    return model.eval()


def waves(dataset: str, split: str):
    """The rows of a dataset and its recordings, each (samples,)."""
    soundfile = pytest.importorskip("soundfile")
    from datasets import Audio

    rows = hub.load_split(dataset, split, None, None).cast_column("audio", Audio(decode=False))
    found = (
        soundfile.read(io.BytesIO(audio["bytes"]), dtype="float32")[0] for audio in rows["audio"]
    )
    return rows, [torch.from_numpy(wave) for wave in found]
