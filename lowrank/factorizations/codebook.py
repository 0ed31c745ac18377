"""A matrix of few shared values: codes of few bits that index a codebook."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from lowrank.factorizations.checks import check_floating
from lowrank.factorizations.coded import Coded
from lowrank.factorizations.configs import dtype_in, shape_in
from lowrank.factorizations.packing import Layout
from lowrank.factorizations.symbol_coding import CODINGS, coding_named
from lowrank.factorizations.watched import watch
from lowrank.files.fields import Fields
from lowrank.numerics.storage import dtype_name


class Codebook(Coded):
    """W[i, j] = centroids[group of (i, j), code[i, j]].

    The codes are fixed; the 2^bits centroids of each group are trained, the gradient of a centroid
    being the sum over the weights that share it. Worth it where few groups share long codebooks:
    2^bits centroids for each group of g weights add 2^bits · (bits of a value) / g bits to each
    weight. Multiplied as a dense matrix, so it saves bytes, not time.

    Codes are packed, or stored by a coding that gives frequent ones fewer bits. These are decoded
    when they are loaded, and take a byte each in memory besides.

    Args:
        layout: shape, bits and groups.
        codes: shape (out, in), integers in 0..2^bits − 1.
        centroids: shape (layout.count, 2^bits), any floating dtype, which is that of W.
        coding: of the codes: ``"fixed"`` width, ``"huffman"`` or ``"ans"``.

    Raises:
        ValueError: shapes that do not fit the layout, codes that are none of its bits, centroids
            that are not floating point, or a coding that does not exist.

    Source: Han, Mao & Dally, Deep Compression, ICLR 2016, sections 3 and 4.
    """

    codes: Tensor
    code_table: Tensor | None
    decoded: Tensor | None

    def __init__(
        self, layout: Layout, codes: Tensor, centroids: Tensor, coding: str = "fixed"
    ) -> None:
        expected = (layout.shape, (layout.count, 2**layout.bits))
        given = (tuple(codes.shape), tuple(centroids.shape))
        if given != expected:
            raise ValueError(
                f"codes and centroids of shapes {given} do not fit {layout}, which needs {expected}"
            )
        check_floating("centroids", centroids)
        stored = coding_named(coding).encode(codes.flatten(), layout.bits)
        super().__init__(layout.shape)
        self._hold(layout, coding, stored, centroids)

    def _hold(
        self, layout: Layout, coding: str, stored: tuple[Tensor, Tensor], centroids: Tensor
    ) -> None:
        self.layout = layout
        self.coding = coding
        stream, table = stored
        self.register_buffer("codes", stream)
        self.register_buffer("code_table", table if len(table) else None)
        # Follows from the stream: moved along, but not stored.
        adapts, place = coding_named(coding).adapts, stream.device
        decoded = torch.zeros(layout.shape, dtype=torch.uint8, device=place) if adapts else None
        self.register_buffer("decoded", decoded, persistent=False)
        self._watched = watch()
        self.centroids = nn.Parameter(centroids.detach().contiguous())
        self.register_load_state_dict_post_hook(_derive_codes)

    def recoded(self, coding: str) -> Codebook:
        """The same matrix, its codes stored by another coding."""
        other = Codebook(self.layout, self.current_codes(), self.centroids, coding)
        other.centroids.requires_grad_(self.centroids.requires_grad)
        other.notes = self.notes
        return other.train(self.training)

    def to_dense(self) -> Tensor:
        codes = self.layout.split(self.current_codes()).to(torch.int64)
        return self.layout.join(self.centroids.gather(1, codes))

    def current_codes(self) -> Tensor:
        """The codes (out, in), uint8, decoded anew if their stream was written to.

        Raises:
            ValueError: the stream is no longer that of some codes.
        """
        if self.decoded is None:
            return self._unpacked()
        if self._watched.misses([*self._stored(), self.decoded]):
            # Not an inference tensor: it may be used in training later.
            with torch.inference_mode(False):
                _derive_codes(self, None)
        return self.decoded

    def check_stored(self) -> None:
        self.current_codes()

    def _stored(self) -> list[Tensor]:
        return [self.codes, *([] if self.code_table is None else [self.code_table])]

    def _unpacked(self) -> Tensor:
        count = self.shape[0] * self.shape[1]
        stream, *tables = self._stored()
        table = tables[0] if tables else stream
        coding = coding_named(self.coding)
        return coding.decode(stream, table, self.layout.bits, count).byte().view(self.shape)

    def config(self) -> dict[str, Any]:
        return {
            "type": "Codebook",
            "shape": list(self.shape),
            "bits": self.layout.bits,
            "group_size": self.layout.group_size,
            "dtype": dtype_name(self.centroids.dtype),
            "coding": self.coding,
            "stream_bytes": len(self.codes),
        }

    @classmethod
    def from_config(cls, config: Fields) -> Self:
        layout = Layout(shape_in(config), config["bits"], config["group_size"])
        coding, dtype = config.one_of("coding", CODINGS), dtype_in(config, "dtype")
        sizes = config.integer("stream_bytes"), coding_named(coding).table_bytes(layout.bits)
        stored = tuple(torch.zeros(size, dtype=torch.uint8) for size in sizes)
        form = cls.__new__(cls)
        Coded.__init__(form, layout.shape)
        centroids = torch.zeros(layout.count, 2**layout.bits, dtype=dtype)
        form._hold(layout, coding, (stored[0], stored[1]), centroids)
        return form

    def describe(self) -> str:
        coded = f", {self.coding}" if coding_named(self.coding).adapts else ""
        return f"Codebook {self.layout.describe()}{coded}"


def _derive_codes(codebook: Codebook, _: Any) -> None:
    """After another stream was loaded, the codes are other ones too."""
    if codebook.decoded is not None:
        codebook.decoded = codebook._unpacked()
        codebook._watched = watch(*codebook._stored(), codebook.decoded)
