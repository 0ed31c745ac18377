"""The modules that replace layers and run a factorization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.factorizations import Dense, Factorization
from lowrank.factorizations.lazy_weight import LazyWeight, matrix_of, refuse
from lowrank.factorizations.operations import Convolve, KernelView, Lookup
from lowrank.factorizations.tracing import is_recorded


class FactorizedLayer(nn.Module):
    """A layer whose weight is a factorization.

    Attributes:
        factorization: the weight as a matrix.
        view: as which matrix a kernel is seen; of no effect but in convolutions.
        kind: of the layer that it stands in for, in a word.
    """

    kind: ClassVar[str]
    factorization: Factorization
    view: KernelView = "channel"
    # Whether it runs a packed copy of its weight, which no change of the weight reaches.
    is_packed: ClassVar[bool] = False
    # The attribute by which code reads the weight of the replaced layer.
    weight_name: ClassVar[str] = "weight"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == self.weight_name:
            refuse(self.factorization)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name == self.weight_name:
            refuse(self.factorization)
        super().__delattr__(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name == self.weight_name:
            refuse(self.factorization)
        super().register_parameter(name, param)

    def run(self, x: Tensor) -> Tensor:
        """Apply the factorization to inputs as its operation takes them, and add the bias.

        What `lowrank.execution` exchanges for a faster kernel.
        """
        return self.factorization(x, bias=self.bias)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that its outputs depend on besides its tensors, as JSON."""
        return {"kind": self.kind}

    def extra_repr(self) -> str:
        return f"view={self.view}" if self.view != "channel" else ""


class FactorizedLinear(FactorizedLayer):
    """y = x Wᵀ + bias, W a factorization of shape (out, in).

    Raises:
        ValueError: a bias of another length than out.
    """

    kind = "linear"

    def __init__(self, factorization: Factorization, bias: nn.Parameter | None) -> None:
        super().__init__()
        if bias is not None and tuple(bias.shape) != (factorization.shape[0],):
            raise ValueError(
                f"a bias of shape {tuple(bias.shape)} does not fit {factorization.describe()}, "
                f"which needs ({factorization.shape[0]},)"
            )
        self.out_features, self.in_features = factorization.shape
        self.factorization = factorization
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """W, for code that reads the weight of a layer instead of calling it."""
        return _read(self.factorization)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class FactorizedConv2d(FactorizedLayer):
    """A convolution, its kernel a factorization of the matrix that `view` names.

    Raises:
        ValueError: a view that does not exist, or a factorization of another shape.
    """

    kind = "conv2d"

    def __init__(self, layer: nn.Conv2d, factorization: Factorization, view: KernelView) -> None:
        super().__init__()
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.padding, self.dilation, self.groups = layer.padding, layer.dilation, layer.groups
        self.padding_mode = layer.padding_mode
        # Padding that the convolution cannot do itself is done before it.
        self._pad = list(layer._reversed_padding_repeated_twice)
        self._pads_first = pads_first(layer)
        self._operation = convolution(layer, view)
        wanted = tuple(self._operation.matrix(torch.empty(layer.weight.shape, device="meta")).shape)
        if factorization.shape != wanted:
            raise ValueError(
                f"{factorization.describe()} of shape {factorization.shape} is no kernel of this "
                f"layer, whose matrix in the view {view!r} has shape {wanted}"
            )
        self.view = view
        self.factorization = factorization
        self.bias = layer.bias

    @property
    def settings(self) -> dict[str, Any]:
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        values = {name: getattr(self, name) for name in names}
        plain = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
        return super().settings | plain

    @property
    def weight(self) -> Tensor:
        """The kernel (out, in/groups, kh, kw), for code that reads it instead of calling."""
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return _read(self.factorization, self._operation.kernel, shape)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            return self.forward(x[None])[0]
        if self._pads_first:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._pad, mode)
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        return self.factorization(x, self._operation, self.bias)


class FactorizedEmbedding(FactorizedLayer):
    """Rows of a table that is a factorization of shape (num_embeddings, embedding_dim).

    Raises:
        ValueError: a row for padding that the table does not have.
    """

    kind = "embedding"

    def __init__(self, factorization: Factorization, padding_idx: int | None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = factorization.shape
        rows = self.num_embeddings
        if padding_idx is not None and not -rows <= padding_idx < rows:
            raise ValueError(f"padding_idx={padding_idx} is none of {rows} rows")
        self.padding_idx = padding_idx
        self._operation = Lookup(padding_idx)
        self.factorization = factorization

    @property
    def weight(self) -> Tensor:
        """The table, for code that reads it instead of calling."""
        return _read(self.factorization)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        return self.factorization(x, self._operation)


class FactorizedMultiheadAttention(nn.MultiheadAttention, FactorizedLayer):
    """Attention whose packed q, k, v projection is a factorization.

    PyTorch's attention reads its weights and never calls its projections, so they are multiplied
    out: it saves bytes and no MACs, and the dropout of an adapter does not act.
    """

    kind = "attention"
    weight_name = "in_proj_weight"

    def __init__(self, layer: nn.MultiheadAttention, factorization: Factorization) -> None:
        nn.Module.__init__(self)
        state = {**layer.__dict__, "_modules": dict(layer._modules)}
        state["_parameters"] = {k: p for k, p in layer._parameters.items() if k != "in_proj_weight"}
        self.__dict__.update(state)
        self.factorization = factorization

    @property
    def settings(self) -> dict[str, Any]:
        names = ("num_heads", "batch_first", "add_zero_attn")
        return super().settings | {name: getattr(self, name) for name in names}

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The packed projection (3·embed, embed)."""
        return _read(self.factorization)


def convolution(layer: nn.Conv2d, view: KernelView) -> Convolve:
    """The operation that `layer` performs, without the padding that has to be done before."""
    return Convolve(
        kernel_size=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=(0, 0) if pads_first(layer) else _pair(layer.padding),
        dilation=_pair(layer.dilation),
        groups=layer.groups,
        view=view,
    )


def pads_first(layer: nn.Conv2d) -> bool:
    """Whether `layer` needs padding that the convolution cannot do itself."""
    return layer.padding_mode != "zeros" or isinstance(layer.padding, str)


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _read(
    factorization: Factorization,
    finish: Callable[[Tensor], Tensor] | None = None,
    shape: tuple[int, ...] | None = None,
) -> Tensor:
    """The matrix, or what `finish` makes of it, of `shape`: the parameter itself if it is one."""
    if isinstance(factorization, Dense) and finish is None:
        return factorization.weight
    finish = finish or (lambda matrix: matrix)
    if is_recorded():
        return finish(matrix_of(factorization))  # What is traced are plain tensors.
    return LazyWeight.of(factorization, finish, shape or factorization.shape)
