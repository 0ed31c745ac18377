"""Sources of images that change those of another source: rotated, inverted, permuted, noisy.

Labels, sizes and the order of the images stay, so that tasks on them have the same classes and
pairs of test images. A change is part of the data: it is the same in every epoch and for every seed
of a task.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.numerics.checks import check_is, check_number, check_positive
from lowrank.tasks.hub_sources import Part
from lowrank.tasks.image_sources import Images, ImageSource
from lowrank.tasks.splits import check_seed

# Images that are held as float32 at once.
CHUNK = 4096


@dataclass(frozen=True)
class ChangedImages(ImageSource):
    """The images of another source, each changed; each final class is a frozen dataclass.

    Args:
        source: the images; may be changed ones too.
    """

    source: ImageSource

    def __post_init__(self) -> None:
        check_is("source", self.source, ImageSource, "Digits()")

    @property
    def name(self) -> str:
        return f"{self.source.name}-{super().name}"

    def read(self, part: Part) -> Images:
        images = self.source.read(part)
        return replace(images, pixels=self._changed(images, part))

    @abstractmethod
    def _changed(self, images: Images, part: Part) -> Tensor:
        """The pixels of `images` after the change, uint8 of the same shape.

        Raises:
            ValueError: these images cannot be changed so.
        """


@dataclass(frozen=True)
class Rotated(ChangedImages):
    """Images rotated about their middle, bilinear, black where nothing was.

    Args:
        degrees: counter-clockwise.
    """

    degrees: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("degrees", self.degrees, "be finite", math.isfinite)

    def _changed(self, images: Images, part: Part) -> Tensor:
        height, width = images.pixels.shape[2:]
        angle = math.radians(self.degrees)
        cos, sin = math.cos(angle), math.sin(angle)
        # Where each pixel comes from, on a scale from −1 to 1 of either side.
        back = torch.tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0]])
        changed = torch.empty_like(images.pixels)
        for start in range(0, len(changed), CHUNK):
            pixels = images.pixels[start : start + CHUNK].to(torch.float32)
            grid = F.affine_grid(
                back.expand(len(pixels), 2, 3), list(pixels.shape), align_corners=False
            )
            turned = F.grid_sample(pixels, grid, align_corners=False)
            changed[start : start + CHUNK] = turned.round()
        return changed


@dataclass(frozen=True)
class Inverted(ChangedImages):
    """Images with black and white exchanged: white − pixel."""

    def _changed(self, images: Images, part: Part) -> Tensor:
        largest = int(images.pixels.max())
        if largest > images.white or images.white > 255:
            raise ValueError(
                f"images with pixels up to {largest} and white={images.white} cannot be inverted: "
                "white must be at least the largest pixel, and at most 255"
            )
        return images.white - images.pixels


@dataclass(frozen=True)
class Permuted(ChangedImages):
    """Images whose pixels change places, in all images and channels alike.

    Args:
        permutation_seed: draws the places.

    Source: Goodfellow et al., ICLR 2014 (permuted MNIST).
    """

    permutation_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed("permutation_seed", self.permutation_seed)

    def _changed(self, images: Images, part: Part) -> Tensor:
        generator = torch.Generator().manual_seed(self.permutation_seed)
        flat = images.pixels.flatten(2)
        return flat[..., torch.randperm(flat.shape[2], generator=generator)].view_as(images.pixels)


@dataclass(frozen=True)
class Noisy(ChangedImages):
    """Images with gaussian noise on each pixel, cut off at black and white.

    Args:
        std: of the noise, above 0; 1 is the distance from black to white.
        noise_seed: draws the noise, another for the train and the test images.
    """

    std: float
    noise_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("std", self.std)
        check_seed("noise_seed", self.noise_seed)

    def _changed(self, images: Images, part: Part) -> Tensor:
        generator = torch.Generator().manual_seed(self.noise_seed)
        # The state after one draw for train, after two for test: unrelated numbers from one seed.
        drawn = torch.randint(2**62, (2,), generator=generator)[int(part == "test")]
        generator.manual_seed(int(drawn))
        changed, most = torch.empty_like(images.pixels), min(images.white, 255)
        for start in range(0, len(changed), CHUNK):
            pixels = images.pixels[start : start + CHUNK].to(torch.float32)
            noise = torch.randn(pixels.shape, generator=generator) * (self.std * images.white)
            changed[start : start + CHUNK] = (pixels + noise).round().clamp(0, most)
        return changed
