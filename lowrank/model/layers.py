"""Rules for the kinds of layers: their weight as a matrix, and the module that replaces them.

A `Rule` knows one kind of module: where its weight is, how the weight is a matrix, and which module
runs a factorization in its place. A new kind of layer is a new rule in `RULES`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.approximation.weight_checks import DTYPES
from lowrank.factorizations import Factorization
from lowrank.factorizations.factorization import MULTIPLY
from lowrank.factorizations.operations import KernelView, Lookup, Operation
from lowrank.model.factorized import (
    FactorizedConv2d,
    FactorizedEmbedding,
    FactorizedLayer,
    FactorizedLinear,
    FactorizedMultiheadAttention,
    convolution,
    pads_first,
)

# Names of a module's code that the replacing layer defines itself.
CODE = ("__call__", "forward", "get_extra_state", "set_extra_state")


class Rule(ABC):
    """A rule to read and replace the weight of one kind of module."""

    def fits(self, module: nn.Module) -> bool:
        """Whether this rule knows the module: exactly its class, or one that runs the same code."""
        known = self.module_type()
        return (
            known is not None
            and isinstance(module, known)
            and all(getattr(type(module), name) is getattr(known, name) for name in CODE)
            # A method set on the instance, by hand or by another library, changes the layer.
            and "forward" not in vars(module)
            and isinstance(module._parameters.get(self.parameter), nn.Parameter)
            and self.weight(module).dtype in DTYPES
            and {*module._parameters, *module._buffers, *module._modules} <= self.parts
        )

    parameter = "weight"
    parts = frozenset({"weight", "bias"})  # All that a module of the class holds.
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

    def as_weight(self, module: nn.Module, matrix: Tensor, view: KernelView) -> Tensor:
        """A matrix (out, in) in the weight's own layout: the inverse of `as_matrix`."""
        del module, view
        return matrix

    def kernel_size(self, module: nn.Module) -> tuple[int, int]:
        """(height, width) of the kernel of a convolution; (1, 1) for other layers."""
        del module
        return 1, 1

    def inputs(self, module: nn.Module, x: Tensor) -> Tensor:
        """The vectors (…, in) that the rows of the weight, in the view ``channel``, multiply.

        Of a look-up table the indices as they are: they choose rows.
        """
        del module
        return x

    def reading(self, module: nn.Module) -> Any:
        """The settings that `inputs` depends on besides x: modules of equal settings get the same
        vectors from the same x."""
        del module
        return None

    def moment(self, module: nn.Module, moment: Tensor, view: KernelView) -> Tensor:
        """The second moment of `inputs`, (in, in) or its diagonal (in,), as `view` needs it."""
        del module, view
        return moment

    def operation(self, module: nn.Module, view: KernelView) -> Operation:
        """The operation of the weight, as a matrix, on the module's inputs."""
        del module, view
        return MULTIPLY

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

    def as_weight(self, module: nn.Module, matrix: Tensor, view: KernelView) -> Tensor:
        assert isinstance(module, nn.Conv2d)
        return convolution(module, view).kernel(matrix)

    def kernel_size(self, module: nn.Module) -> tuple[int, int]:
        assert isinstance(module, nn.Conv2d)
        return convolution(module, "channel").kernel_size

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

    def operation(self, module: nn.Module, view: KernelView) -> Operation:
        assert isinstance(module, nn.Conv2d)
        return convolution(module, view)

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

    def operation(self, module: nn.Module, view: KernelView) -> Operation:
        assert isinstance(module, nn.Embedding)
        return Lookup(module.padding_idx)

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

    def as_weight(self, module: nn.Module, matrix: Tensor, view: KernelView) -> Tensor:
        return matrix.T

    def build(self, module: Any, factorization: Factorization, view: KernelView) -> FactorizedLayer:
        return FactorizedLinear(factorization, module.bias)


class MultiheadAttentionRule(Rule):
    """The packed q, k, v projection; the output projection is a linear layer of its own."""

    parameter = "in_proj_weight"
    parts = frozenset(
        {
            *("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
            *("in_proj_bias", "bias_k", "bias_v", "out_proj"),
        }
    )

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


def why_no_rule(module: nn.Module) -> str:
    """Why a module whose weight is a matrix is not compressed."""
    kinds = [kind for kind in (rule.module_type() for rule in RULES) if kind is not None]
    if not isinstance(module, tuple(kinds)):
        if isinstance(module, Factorization):
            return "a part of a factorization, which `lowrank.recovery.DecomposeLeaves` compresses"
        return "no rule for a module that uses it"
    if "forward" in vars(module):
        return "its `forward` was set on this one module, and would be lost"
    if rule_for(module) is None:
        dtypes = {p.dtype for p in module.parameters(recurse=False)} - set(DTYPES)
        if dtypes:
            return (
                f"no method computes with {', '.join(map(str, dtypes))}: convert the model first, "
                "as by model.to(torch.bfloat16), with its scales if it has any"
            )
        return (
            f"no rule for a {type(module).__name__} that runs code of its own, holds other tensors "
            "or modules beside its weight, or whose weight is made of other tensors (weight_norm, "
            "parametrizations, pruning masks)"
        )
    return "no rule for another module that uses it"
