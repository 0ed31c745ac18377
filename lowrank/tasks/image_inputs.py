"""Images made ready for networks that were trained with OpenCV: resized, B, G, R, scaled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resized(pixels: Tensor, height: int, width: int) -> Tensor:
    """Images at another size, bilinear, without keeping the ratio of the sides.

    Pixels have their centres at halves, and images that become smaller are not smoothed before, as
    in OpenCV.

    Args:
        pixels: uint8, (batch, channels, any, any).

    Returns:
        uint8, (batch, channels, height, width), rounded.

    Raises:
        ValueError: `pixels` is no such tensor.
    """
    _check_pixels(pixels)
    made = F.interpolate(
        pixels.to(torch.float32), (height, width), mode="bilinear", align_corners=False
    )
    return made.round().to(torch.uint8)


def bgr_inputs(
    pixels: Tensor, mean: Sequence[float] = (0, 0, 0), std: Sequence[float] = (1, 1, 1)
) -> Tensor:
    """The inputs of `FastestDet`, and with its constants of `ESPNet`: (pixel − mean) / std / 255.

    Args:
        pixels: uint8, (batch, 3, height, width), in the order R, G, B.
        mean, std: of B, G and R, on the scale of the pixels.

    Returns:
        float32, of the same shape, in the order B, G, R.

    Raises:
        ValueError: `pixels` is no such tensor, or there are not three means and deviations.
    """
    _check_pixels(pixels)
    if pixels.shape[1] != 3 or len(mean) != 3 or len(std) != 3:
        raise ValueError(
            f"pixels of shape {tuple(pixels.shape)}, mean={list(mean)} and std={list(std)} must be "
            "of three channels"
        )
    shift, scale = (
        torch.tensor(list(values), dtype=torch.float32, device=pixels.device)[:, None, None]
        for values in (mean, std)
    )
    return (pixels.flip(1) - shift) / scale / 255


def _check_pixels(pixels: Tensor) -> None:
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise ValueError(
            "pixels must be uint8 of shape (batch, channels, height, width), and are "
            f"{pixels.dtype} of shape {tuple(pixels.shape)}"
        )
