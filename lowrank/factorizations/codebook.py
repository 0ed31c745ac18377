"""A matrix of few shared values: codes of few bits that index a codebook."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank.factorizations.checks import check_floating
from lowrank.factorizations.coded import Coded
from lowrank.factorizations.configs import dtype_in, shape_in
from lowrank.factorizations.packing import Layout, pack, unpack
from lowrank.files.fields import Fields
from lowrank.numerics.storage import dtype_name


class Codebook(Coded):
    """W[i, j] = centroids[group of (i, j), code[i, j]].

    The codes are packed and fixed; the 2^bits centroids of each group are trained, the gradient of
    a centroid being the sum over the weights that share it. Worth it where few groups share long
    codebooks: 2^bits centroids for each group of g weights add 2^bits · (bits of a value) / g bits
    to each weight. Multiplied as a dense matrix, so it saves bytes, not time.

    Args:
        layout: shape, bits and groups.
        codes: shape (out, in), integers in 0..2^bits − 1.
        centroids: shape (layout.count, 2^bits), any floating dtype, which is that of W.

    Raises:
        ValueError: shapes that do not fit the layout, codes that are none of its bits, or centroids
            that are not floating point.

    Source: Han, Mao & Dally, Deep Compression, ICLR 2016, section 3.
    """

    codes: Tensor

    def __init__(self, layout: Layout, codes: Tensor, centroids: Tensor) -> None:
        expected = (layout.shape, (layout.count, 2**layout.bits))
        given = (tuple(codes.shape), tuple(centroids.shape))
        if given != expected:
            raise ValueError(
                f"codes and centroids of shapes {given} do not fit {layout}, which needs {expected}"
            )
        check_floating("centroids", centroids)
        super().__init__(layout.shape)
        self.layout = layout
        self.register_buffer("codes", pack(codes.flatten(), layout.bits))
        self.centroids = nn.Parameter(centroids.detach().contiguous())

    def to_dense(self) -> Tensor:
        count = self.shape[0] * self.shape[1]
        codes = unpack(self.codes, self.layout.bits, count).view(self.shape)
        values = self.centroids.gather(1, self.layout.split(codes).to(torch.int64))
        return self.layout.join(values)

    def config(self) -> dict[str, Any]:
        return {
            "type": "Codebook",
            "shape": list(self.shape),
            "bits": self.layout.bits,
            "group_size": self.layout.group_size,
            "dtype": dtype_name(self.centroids.dtype),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        layout = Layout(shape_in(config), config["bits"], config["group_size"])
        codes = torch.zeros(layout.shape, dtype=torch.uint8)
        dtype = dtype_in(config, "dtype")
        return cls(layout, codes, torch.zeros(layout.count, 2**layout.bits, dtype=dtype))

    def describe(self) -> str:
        return f"Codebook {self.layout.describe()}"
