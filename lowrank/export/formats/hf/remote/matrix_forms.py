"""Matrices in compressed forms. Needs torch alone.

A form is a matrix W of shape (out, in), described by a mapping: its type, its tensors, and the
forms that it is made of. Linear layers apply it part by part, others read it as one matrix.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packed_codes import decoded, law, unpacked

# Floating-point buffers are held as bytes, so that `model.to(dtype)` does not round them.
BYTES = torch.uint8


class MatrixForm(nn.Module):
    """A matrix in some form; the config names its tensors and the forms it is made of."""

    def __init__(self, spec: dict) -> None:
        super().__init__()
        self.spec, self._kept = spec, None
        # `from_pretrained` builds the model with its dtype as the default one.
        self.dtype = torch.get_default_dtype()
        for name, (shape, dtype, is_parameter) in spec["tensors"].items():
            kind = getattr(torch, dtype)
            if is_parameter:
                self.register_parameter(name, nn.Parameter(torch.empty(shape, dtype=kind)))
            elif kind.is_floating_point:
                size = math.prod(shape) * kind.itemsize
                self.register_buffer(name, torch.empty(size, dtype=BYTES))
            else:
                self.register_buffer(name, torch.empty(shape, dtype=kind))
        for name, value in spec.items():
            if isinstance(value, dict) and "type" in value:
                setattr(self, name, form_of(value))
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                setattr(self, name, nn.ModuleList(form_of(part) for part in value))

    def __getattr__(self, name: str) -> Any:
        """A tensor or a form that the description names."""
        return super().__getattr__(name)

    def floats(self, name: str) -> Tensor:
        """A floating-point buffer."""
        shape, dtype, _ = self.spec["tensors"][name]
        return getattr(self, name).view(getattr(torch, dtype)).view(shape)

    def matrix(self) -> Tensor:
        """W, made anew."""
        raise NotImplementedError

    def kept(self) -> Tensor:
        """W, made once where nothing is trained."""
        if self.training or torch.is_grad_enabled():
            return self.matrix()
        if self._kept is None:
            self._kept = self.matrix()
        return self._kept

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x Wᵀ + bias."""
        return F.linear(x, self.kept().to(x.dtype), bias)

    def train(self, mode: bool = True) -> "MatrixForm":
        self._kept = None
        return super().train(mode)

    def _apply(self, *args, **kwargs):
        self._kept = None
        return super()._apply(*args, **kwargs)


class DenseForm(MatrixForm):
    def matrix(self) -> Tensor:
        return self.weight

    kept = matrix


class HalfForm(MatrixForm):
    """16-bit values, as integers of the same bits."""

    def matrix(self) -> Tensor:
        return self.stored.view(getattr(torch, self.spec["stored_dtype"])).to(self.dtype)


class PackedForm(MatrixForm):
    """W = (code − zero) · scale, by groups of inputs."""

    def matrix(self) -> Tensor:
        bits, working = self.spec["bits"], torch.promote_types(self.dtype, torch.float32)
        scale = self.floats("scale").to(working)
        if "zero" not in self.spec["tensors"]:
            zero = torch.full_like(scale, 2 ** (bits - 1) if bits > 1 else 0.5)
        elif self.spec["tensors"]["zero"][1] == "uint8":
            zero = unpacked(self.zero, bits, len(scale)).to(working)
        else:
            zero = self.floats("zero").to(working)
        codes = grouped(self.spec, unpacked_codes(self)).to(working)
        levels = (codes - zero[:, None]) * scale[:, None]
        return ungrouped(self.spec, levels).to(self.dtype)


class CodebookForm(MatrixForm):
    """W[i, j] = centroids[group of (i, j), code[i, j]]."""

    def matrix(self) -> Tensor:
        codes = grouped(self.spec, unpacked_codes(self)).long()
        return ungrouped(self.spec, self.centroids.gather(1, codes))


class SparseForm(MatrixForm):
    """Values of the blocks that a bitmask, or columns by row (CSR), keep."""

    def matrix(self) -> Tensor:
        (rows, columns), (height, width) = self.spec["shape"], self.spec["block"]
        down, across = -(-rows // height), -(-columns // width)
        if hasattr(self, "bitmask"):
            kept = unpacked(self.bitmask, 1, down * across).view(down, across).bool()
        else:
            place = self.columns.long()
            row = torch.arange(down, device=place.device)
            row = row.repeat_interleave(self.row_pointers.long().diff())
            kept = torch.zeros(down, across, dtype=torch.bool, device=place.device)
            kept[row, place] = True
        mask = kept.repeat_interleave(height, 0).repeat_interleave(width, 1)[:rows, :columns]
        values = self.values.matrix()
        return values.new_zeros(rows, columns).masked_scatter(mask.contiguous(), values)


class EntropyForm(MatrixForm):
    """W = code · step, the codes by asymmetric numeral systems (Duda, 2013), under the law
    p(q) ∝ exp(−linear · |q|/s − square · q²/s²), s the spread of row and column."""

    def matrix(self) -> Tensor:
        step, linear, square = self.numbers.cpu().view(torch.float32).tolist()
        working = torch.promote_types(self.dtype, torch.float32)
        reach, centre = self.spec["reach"], self.spec["centre"]
        spread = self._exponents("spread")
        table = torch.stack(
            [law(linear, square, reach, exponent) for exponent in range(int(spread.max()) + 1)]
        )
        codes = decoded(
            self.stream, spread.flatten().cpu().numpy(), table.numpy().astype(np.uint64)
        )
        codes = codes.view(self.spec["shape"]).to(self.stream.device) - reach + centre
        number, power = math.frexp(step)
        scaled = codes * (number * torch.exp2(self._exponents("step").to(working) / 2))
        power += self.spec["exponent"]
        # In two steps: the power itself may be beyond the range of the dtype.
        return (scaled * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)).to(self.dtype)

    def _exponents(self, kind: str) -> Tensor:
        found = []
        for side, length in zip(("row", "column"), self.spec["shape"], strict=True):
            name = f"{side}_{kind}"
            bits, packed = self.spec["widths"][name], getattr(self, name)
            zeros = torch.zeros(length, dtype=torch.uint8, device=packed.device)
            found.append((unpacked(packed, bits, length) if bits else zeros).long())
        return found[0][:, None] + found[1]


class ProductForm(MatrixForm):
    """W = factors[0] @ factors[1] @ …"""

    def matrix(self) -> Tensor:
        first, *rest = (factor.matrix() for factor in self.factors)
        for one in rest:
            first = first @ one
        return first

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        last, *others = self.factors
        for factor in reversed(others):
            x = factor(x)
        return last(x, bias)


class SumForm(MatrixForm):
    """W = terms[0] + terms[1] + …"""

    def matrix(self) -> Tensor:
        first, *rest = (term.matrix() for term in self.terms)
        for one in rest:
            first = first + one
        return first

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        first, *rest = self.terms
        y = first(x, bias)
        for term in rest:
            y = y + term(x)
        return y


class ScaledForm(MatrixForm):
    """W = scale · term."""

    def matrix(self) -> Tensor:
        return self.term.matrix() * self.spec["scale"]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = self.term(x) * self.spec["scale"]
        return y if bias is None else y + bias


class ScaledColumnsForm(MatrixForm):
    """W = term · diag(scale)."""

    def matrix(self) -> Tensor:
        dense = self.term.matrix()
        working = torch.promote_types(dense.dtype, torch.float32)
        return (dense.to(working) * self.floats("scale").to(working)).to(dense.dtype)


class BlocksForm(MatrixForm):
    """Blocks of one shape on the diagonal, given one below the other."""

    def matrix(self) -> Tensor:
        return torch.block_diag(*self.values.matrix().chunk(self.spec["count"]))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        count = self.spec["count"]
        parts, blocks = x.unflatten(-1, (count, -1)), self.values.kept().unflatten(0, (count, -1))
        y = torch.einsum("...nc,nrc->...nr", parts, blocks.to(x.dtype)).flatten(-2)
        return y if bias is None else y + bias


class PermutedForm(MatrixForm):
    """W = left P right, P from the order by columns of a grid of blocks to that by rows."""

    def matrix(self) -> Tensor:
        return self.left.matrix() @ self.right.matrix()[self._order()]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.left(self.right(x).index_select(-1, self._order()), bias)

    def _order(self) -> Tensor:
        ranks = self.ranks.long().expand(self.spec["grid"])
        by_column = ranks.T.flatten()
        starts = (by_column.cumsum(0) - by_column).view(ranks.T.shape).T.flatten()
        lengths = ranks.flatten()
        block = torch.arange(len(lengths), device=ranks.device).repeat_interleave(lengths)
        place = torch.arange(len(block), device=ranks.device)
        return starts[block] + place - (lengths.cumsum(0) - lengths)[block]


FORMS = {
    "Dense": DenseForm,
    "Half": HalfForm,
    "Quantized": PackedForm,
    "Codebook": CodebookForm,
    "Sparse": SparseForm,
    "EntropyCoded": EntropyForm,
    "Product": ProductForm,
    "Sum": SumForm,
    "Scaled": ScaledForm,
    "ScaledColumns": ScaledColumnsForm,
    "BlockDiagonal": BlocksForm,
    "PermutedProduct": PermutedForm,
}


def form_of(spec: dict) -> MatrixForm:
    return FORMS[spec["type"]](spec)


def unpacked_codes(form: MatrixForm) -> Tensor:
    rows, columns = form.spec["shape"]
    return unpacked(form.codes, form.spec["bits"], rows * columns).view(rows, columns)


def lines(spec: dict) -> tuple[int, int, int]:
    """The lines that are cut into groups, their length, and that of a group."""
    rows, columns = spec["shape"]
    size = spec["group_size"]
    count, length = (1, rows * columns) if size == "tensor" else (rows, columns)
    return count, length, min(size, length) if isinstance(size, int) else length


def grouped(spec: dict, matrix: Tensor) -> Tensor:
    """A matrix as groups, one in a row; shorter groups are filled up with zeros."""
    count, length, width = lines(spec)
    return F.pad(matrix.reshape(count, length), (0, -length % width)).reshape(-1, width)


def ungrouped(spec: dict, groups: Tensor) -> Tensor:
    count, length, _ = lines(spec)
    return groups.reshape(count, -1)[:, :length].reshape(spec["shape"])
