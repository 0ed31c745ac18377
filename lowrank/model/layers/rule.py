"""The interface of rules, which read and replace the weight of one kind of module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from lowrank.approximation.weight_checks import DTYPES
from lowrank.factorizations import Factorization
from lowrank.factorizations.factorization import MULTIPLY
from lowrank.factorizations.operations import KernelView, Operation
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.layers.same_code import same_computation

# Names of a module's code that the replacing layer defines itself.
CODE = ("__call__", "get_extra_state", "set_extra_state")


class Unseen(Exception):
    """No vectors of a call tell what all rows of a weight multiply."""


class Rule(ABC):
    """A rule to read and replace the weight of one kind of module."""

    def fits(self, module: nn.Module) -> bool:
        """Whether this rule knows the module: its class, or one that computes the same."""
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
            and (self._runs_code_of(known, module) or same_computation(module, known))
        )

    def _runs_code_of(self, known: type[nn.Module], module: nn.Module) -> bool:
        own = type(module)
        return all(getattr(own, name, None) is getattr(known, name, None) for name in self.code)

    # The methods that compute the outputs.
    code: ClassVar[tuple[str, ...]] = ("forward",)
    parameter = "weight"
    parts = frozenset({"weight", "bias"})  # All that a module of the class holds.
    looks_up = False  # Whether the module looks rows of its weight up instead of multiplying.

    @abstractmethod
    def module_type(self) -> type[nn.Module] | None:
        """The class of modules; None where the library that defines it is not loaded."""

    def is_called(self, module: nn.Module) -> bool:
        """Whether the module is called; if not, its weight is read by another one's code, and the
        module is called in calibration only (`lowrank.model.host.calling`)."""
        del module
        return True

    def kind(self, module: nn.Module) -> str:
        """The class name of the layer that the weight belongs to."""
        del module
        known = self.module_type()
        assert known is not None
        return known.__name__

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

    def kernel_size(self, module: nn.Module) -> tuple[int, ...]:
        """The kernel of a convolution along each of its axes; (1,) for other layers."""
        del module
        return (1,)

    def inputs(self, module: nn.Module, x: Tensor) -> Tensor:
        """The vectors (…, in) that the rows of the weight, in the view ``channel``, multiply.

        Of a look-up table the indices as they are: they choose rows.

        Args:
            x: what the module is called with; a rule for modules of further arguments takes them
                too, by position.

        Raises:
            Unseen: the rows of the weight do not all multiply the same vectors.
        """
        del module
        return x

    def reading(self, module: nn.Module, x: Any, *others: Any) -> Any:
        """What `inputs` depends on besides x, with all arguments of a call: modules of equal
        readings get the same vectors from the same x."""
        del module, x
        # Nothing but x is compared by its numbers.
        return object() if any(isinstance(other, Tensor) for other in others) else others

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
