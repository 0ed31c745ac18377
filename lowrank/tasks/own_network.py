"""The base of tasks with a network of one's own, trained here or published."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank.model.forward import call
from lowrank.tasks.builders import built
from lowrank.tasks.splits import check_seed, check_text
from lowrank.tasks.task import Task
from lowrank.tasks.weights import Weights


class OwnNetwork(Task):
    """A task whose network a builder makes; each final class is a frozen dataclass.

    Attributes:
        units: the word for its examples.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
        weights: the source of the network's weights; None keeps those of the builder.
    """

    units: ClassVar[str]

    builder: str
    arguments: Mapping[str, Any]
    weights: Weights | None

    @abstractmethod
    def _check_outputs(self, model: nn.Module) -> None:
        """Raise ValueError unless a network on the CPU fits the data."""

    def _check_network(self) -> None:
        """Raise ValueError for options of the network of the wrong kind."""
        check_text("architecture", self.architecture)
        check_text("builder", self.builder)
        if not isinstance(self.arguments, Mapping):
            raise ValueError(f"arguments={self.arguments!r} must be a mapping of names to values")
        if self.weights is not None and not isinstance(self.weights, Weights):
            raise ValueError(
                f"weights={self.weights!r} must be None or Weights, such as Published(repository)"
            )
        check_seed("seed", self.seed)

    def _check_function(self, name: str, arguments: str) -> None:
        """Raise ValueError unless fields name a function and its arguments."""
        check_text(name, getattr(self, name))
        if not isinstance(getattr(self, arguments), Mapping):
            raise ValueError(f"{arguments}={getattr(self, arguments)!r} must be a mapping")

    @property
    def draws_model(self) -> bool:
        return self.weights is None or self.weights.draws

    def check(self) -> None:
        super().check()
        self._check_outputs(self.network())
        if self.weights is not None:
            self.weights.check()

    def network(self) -> nn.Module:
        # The caller's random state is restored.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return built(self.builder, self.arguments, self.name)

    def model(self) -> nn.Module:
        model = self.network()
        self._check_outputs(model)
        if self.weights is not None:
            self.weights.fill(model, self, self.builder, self.arguments)
        return model.to(self.device).eval()

    def _given(self, model: nn.Module, inputs: Tensor) -> tuple[int, ...] | str:
        """The shape of what a network on the CPU gives for inputs, or what it is if no tensor.

        Raises:
            ValueError: it does not take them.
        """
        inputs = inputs.cpu()
        try:
            with torch.no_grad():
                outputs = call(model.eval(), (inputs,))
        except ValueError as error:
            raise ValueError(
                f"the network of {self.builder}, of task {self.name!r}, does not take "
                f"{self.units} of shape {tuple(inputs.shape)}: {error}"
            ) from error
        return tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
