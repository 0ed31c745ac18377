"""Which modules hold a weight matrix, and how a factorization takes its place.

A `Rule` knows one kind of module: where its weight is, as which matrix it is seen, and what module
runs a factorization instead. A new kind of layer is a new rule in `RULES`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.factorizations import Factorization, Leaf
from lowrank.factorizations.operations import Convolve, KernelView, Lookup
from lowrank.factorizations.unread import Unread


class FactorizedLayer(nn.Module):
    """A layer whose weight is a factorization.

    Attributes:
        factorization: the weight as a matrix.
        view: as which matrix a kernel is seen; of no effect but in convolutions.
    """

    factorization: Factorization
    view: KernelView = "channel"

    def extra_repr(self) -> str:
        return f"view={self.view}" if self.view != "channel" else ""


class FactorizedLinear(FactorizedLayer):
    """y = x Wᵀ + bias, W a factorization of shape (out, in)."""

    def __init__(self, factorization: Factorization, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features, self.in_features = factorization.shape
        self.factorization = factorization
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """W, for code that reads the weight of a layer instead of calling it."""
        return _read(self.factorization)

    def forward(self, x: Tensor) -> Tensor:
        return self.factorization(x, bias=self.bias)


class FactorizedConv2d(FactorizedLayer):
    """A convolution, its kernel a factorization of the matrix that `view` names."""

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
        self.view = view
        self.factorization = factorization
        self.bias = layer.bias

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
        return self.factorization(x, self._operation, self.bias)


class FactorizedEmbedding(FactorizedLayer):
    """Rows of a table that is a factorization of shape (num_embeddings, embedding_dim)."""

    def __init__(self, factorization: Factorization, padding_idx: int | None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = factorization.shape
        self.padding_idx = padding_idx
        self._operation = Lookup(padding_idx)
        self.factorization = factorization

    @property
    def weight(self) -> Tensor:
        """The table, for code that reads it instead of calling."""
        return _read(self.factorization)

    def forward(self, x: Tensor) -> Tensor:
        return self.factorization(x, self._operation)


class FactorizedMultiheadAttention(nn.MultiheadAttention, FactorizedLayer):
    """Attention whose packed q, k, v projection is a factorization.

    PyTorch's attention reads its weights and never calls its projections, so they are multiplied
    out: it saves bytes and no MACs, and the dropout of an adapter does not act.
    """

    def __init__(self, layer: nn.MultiheadAttention, factorization: Factorization) -> None:
        nn.Module.__init__(self)
        state = {**layer.__dict__, "_modules": dict(layer._modules)}
        state["_parameters"] = {k: p for k, p in layer._parameters.items() if k != "in_proj_weight"}
        self.__dict__.update(state)
        self.factorization = factorization

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The packed projection (3·embed, embed)."""
        return _materialize(self.factorization)


class Rule(ABC):
    """How to read and replace the weight of one kind of module."""

    def fits(self, module: nn.Module) -> bool:
        """Whether this rule knows the module: exactly its class, or one that runs the same code."""
        known = self.module_type()
        return (
            known is not None
            and isinstance(module, known)
            and type(module).forward is known.forward
            and isinstance(module._parameters.get(self.parameter), nn.Parameter)
        )

    parameter = "weight"
    looks_up = False  # Whether the module looks rows of its weight up instead of multiplying.

    @abstractmethod
    def module_type(self) -> type[nn.Module] | None:
        """The class of modules; None where the library that defines it is not loaded."""

    def is_called(self, module: nn.Module) -> bool:
        """Whether the module is called; if not, its weight is read by another one's code."""
        del module
        return True

    def matrix(self, module: nn.Module, view: KernelView) -> Tensor:
        """The weight as a matrix (out, in)."""
        return self.as_matrix(module, self.weight(module), view)

    def as_matrix(self, module: nn.Module, values: Tensor, view: KernelView) -> Tensor:
        """A tensor in the weight's own layout, such as its gradient, as a matrix (out, in)."""
        del module, view
        return values

    def inputs(self, module: nn.Module, x: Tensor) -> Tensor:
        """The vectors (…, in) that the rows of the weight, in the view ``channel``, multiply.

        Of a look-up table the indices as they are: they choose rows.
        """
        del module
        return x

    def reading(self, module: nn.Module) -> Any:
        """What decides `inputs` besides x: of two modules where it is equal, the same x gives the
        same vectors."""
        del module
        return None

    def moment(self, module: nn.Module, moment: Tensor, view: KernelView) -> Tensor:
        """The second moment of `inputs`, (in, in) or its diagonal (in,), as `view` needs it."""
        del module, view
        return moment

    @abstractmethod
    def build(self, module: Any, factorization: Factorization, view: KernelView) -> FactorizedLayer:
        """The module that stands in for `module`; takes over its bias and settings."""

    def weight(self, module: nn.Module) -> nn.Parameter:
        """The parameter in the module's own layout."""
        parameter = module._parameters[self.parameter]
        assert parameter is not None
        return parameter


class LinearRule(Rule):
    def module_type(self) -> type[nn.Module]:
        return nn.Linear

    def is_called(self, module: nn.Module) -> bool:
        # The output projection of `nn.MultiheadAttention`.
        return not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)

    def build(
        self, module: nn.Linear, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedLinear(factorization, module.bias)


class Conv2dRule(Rule):
    def fits(self, module: nn.Module) -> bool:
        own = getattr(type(module), "_conv_forward", None)  # Where subclasses change the kernel.
        return super().fits(module) and own is nn.Conv2d._conv_forward

    def module_type(self) -> type[nn.Module]:
        return nn.Conv2d

    def as_matrix(self, module: nn.Module, values: Tensor, view: KernelView) -> Tensor:
        assert isinstance(module, nn.Conv2d)
        return convolution(module, view).matrix(values)

    def inputs(self, module: nn.Module, x: Tensor) -> Tensor:
        assert isinstance(module, nn.Conv2d)
        if pads_first(module):
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            x = F.pad(x, list(module._reversed_padding_repeated_twice), mode)
        return convolution(module, "channel").patches(x if x.ndim == 4 else x[None])

    def reading(self, module: nn.Module) -> Any:
        assert isinstance(module, nn.Conv2d)
        padding = tuple(module._reversed_padding_repeated_twice)
        return convolution(module, "channel"), module.padding_mode, padding

    def moment(self, module: nn.Module, moment: Tensor, view: KernelView) -> Tensor:
        assert isinstance(module, nn.Conv2d)
        return convolution(module, view).moment(moment)

    def build(
        self, module: nn.Conv2d, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedConv2d(module, factorization, view)


class EmbeddingRule(Rule):
    looks_up = True

    def fits(self, module: nn.Module) -> bool:
        # Renormalised rows would have to be written back into the factors.
        return super().fits(module) and getattr(module, "max_norm", None) is None

    def module_type(self) -> type[nn.Module]:
        return nn.Embedding

    def reading(self, module: nn.Module) -> Any:
        return self.looks_up, len(self.weight(module))

    def build(
        self, module: nn.Embedding, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedEmbedding(factorization, module.padding_idx)


class TransformersConv1DRule(Rule):
    """GPT-2's linear layer, whose weight is stored as (in, out)."""

    def module_type(self) -> type[nn.Module] | None:
        # A model that uses it has loaded its library; importing it here would cost seconds.
        library = sys.modules.get("transformers.pytorch_utils")
        return None if library is None else library.Conv1D

    def as_matrix(self, module: nn.Module, values: Tensor, view: KernelView) -> Tensor:
        return values.T

    def build(self, module: Any, factorization: Factorization, view: KernelView) -> FactorizedLayer:
        return FactorizedLinear(factorization, module.bias)


class MultiheadAttentionRule(Rule):
    """The packed q, k, v projection; the output projection is a linear layer of its own."""

    parameter = "in_proj_weight"

    def module_type(self) -> type[nn.Module]:
        return nn.MultiheadAttention

    def is_called(self, module: nn.Module) -> bool:
        return False

    def build(
        self, module: nn.MultiheadAttention, factorization: Factorization, view: KernelView
    ) -> FactorizedLayer:
        return FactorizedMultiheadAttention(module, factorization)


RULES: tuple[Rule, ...] = (
    LinearRule(),
    Conv2dRule(),
    EmbeddingRule(),
    TransformersConv1DRule(),
    MultiheadAttentionRule(),
)


def rule_for(module: nn.Module) -> Rule | None:
    """The rule that knows this module, if there is one."""
    return next((rule for rule in RULES if rule.fits(module)), None)


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


def _materialize(factorization: Factorization) -> Tensor:
    if isinstance(factorization, Leaf):
        return factorization.materialize()
    return factorization.to_dense()


def _read(
    factorization: Factorization,
    finish: Callable[[Tensor], Tensor] = lambda weight: weight,
    shape: tuple[int, ...] | None = None,
) -> Tensor:
    """The matrix, or what `finish` makes of it, of `shape`; factors are multiplied when needed."""
    if isinstance(factorization, Leaf):
        return finish(factorization.materialize())
    return Unread.of(factorization, finish, shape or factorization.shape)
