"""Resources of a budget: bytes, parameters, MACs and measured time."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lowrank.calibration.data import spelled
from lowrank.factorizations import Factorization, Leaf
from lowrank.factorizations.operations import KernelView
from lowrank.measure.latency import LatencyComparison, compare_latency
from lowrank.measure.macs import macs
from lowrank.measure.size import nbytes, params
from lowrank.model.forward import Example, call, check_example, evaluating
from lowrank.model.sites import Site, Use
from lowrank.numerics.storage import stored_bytes

# Name of a module → the positional arguments of each of its calls.
Calls = Mapping[str, Sequence[tuple[Tensor, ...]]]


class Resource(ABC):
    """A resource that a model and its weights take, in whole units.

    Attributes:
        unit: of the whole numbers, in the unit in which a limit is given.
        noun: of that unit.
        is_of_shapes: whether what the dense model takes is known without a run of it.
    """

    unit: ClassVar[float] = 1.0
    is_of_shapes: ClassVar[bool] = True
    noun: ClassVar[str]

    def amount(self, count: float) -> str:
        """A number of whole units as text."""
        number = f"{count:,.0f}" if self.unit == 1 else f"{count * self.unit:.3g}"
        return f"{number} {self.noun}"

    def calls(self, model: nn.Module, sites: Sequence[Site], example: Example | None) -> Calls:
        """The inputs of the layers' calls, where costs depend on them; by default none.

        Raises:
            ValueError: it cannot be known: no example, or a weight that is not run by itself.
        """
        del model, sites, example
        return {}

    def conditions(self, example: Example | None) -> tuple[str, ...]:
        """The conditions that costs depend on besides model and candidates; by default none."""
        del example
        return ()

    @abstractmethod
    def of_model(self, model: nn.Module, example: Example | None) -> int:
        """The cost of the whole dense model."""

    @abstractmethod
    def of_site(self, site: Site, calls: Calls) -> int:
        """The cost of a dense weight, all its uses together."""

    @abstractmethod
    def of(
        self, site: Site, factorization: Factorization, view: KernelView, calls: Calls, dense: int
    ) -> int:
        """The cost of a weight with a factorization in its place.

        Args:
            dense: the result of `of_site`.
        """


class Bytes(Resource):
    """Of the saved file; see `lowrank.measure.size.nbytes`."""

    noun = "bytes"

    def of_model(self, model: nn.Module, example: Example | None) -> int:
        return nbytes(model)

    def of_site(self, site: Site, calls: Calls) -> int:
        return stored_bytes(site.weight)

    def of(
        self, site: Site, factorization: Factorization, view: KernelView, calls: Calls, dense: int
    ) -> int:
        return factorization.nbytes


class Params(Resource):
    """Stored learned values; see `lowrank.measure.size.params`."""

    noun = "params"

    def of_model(self, model: nn.Module, example: Example | None) -> int:
        return params(model)

    def of_site(self, site: Site, calls: Calls) -> int:
        return site.weight.numel()

    def of(
        self, site: Site, factorization: Factorization, view: KernelView, calls: Calls, dense: int
    ) -> int:
        return params(factorization)


class _Run(Resource):
    """A resource that only a run of the layer shows."""

    is_of_shapes = False

    def calls(self, model: nn.Module, sites: Sequence[Site], example: Example | None) -> Calls:
        if example is None:
            raise ValueError(
                f"a budget of {type(self).__name__.lower()} needs the inputs of one example to run "
                "the layers on: give `example`"
            )
        check_example(example)
        return calls_in(model, sites, example)

    def conditions(self, example: Example | None) -> tuple[str, ...]:
        return (
            spelled(dict(example) if isinstance(example, Mapping) else example),
            str(torch.get_num_threads()),
        )

    def layers(
        self, site: Site, factorization: Factorization, view: KernelView
    ) -> Iterator[tuple[Use, nn.Module]]:
        """Each use of a weight with the layer that stands in for it."""
        for use in site.uses:
            yield use, use.rule.build(use.module, factorization, view).train(use.module.training)
        factorization.eval()  # Drops the dense copies that leaves keep once they have run.


class MACs(_Run):
    """Of one example; see `lowrank.measure.macs.macs`."""

    noun = "MACs"

    def of_model(self, model: nn.Module, example: Example | None) -> int:
        assert example is not None
        return macs(model, example)

    def of_site(self, site: Site, calls: Calls) -> int:
        return sum(macs(use.module, inputs) for use in site.uses for inputs in calls[use.name])

    def of(
        self, site: Site, factorization: Factorization, view: KernelView, calls: Calls, dense: int
    ) -> int:
        layers = self.layers(site, factorization, view)
        return sum(macs(layer, inputs) for use, layer in layers for inputs in calls[use.name])


class Latency(_Run):
    """Seconds of a forward pass, in nanoseconds; each layer measured beside its dense self.

    The time of a model is taken to be the sum of its layers' and of what it does besides. Short
    timings on a busy machine err: measure the result.
    """

    unit = 1e-9
    noun = "s"

    def of_model(self, model: nn.Module, example: Example | None) -> int:
        assert example is not None
        return round(compare_latency(model, model, example).dense_s / self.unit)

    def of_site(self, site: Site, calls: Calls) -> int:
        pairs = [(use.module, inputs) for use in site.uses for inputs in calls[use.name]]
        return round(sum(_seconds(m, m, inputs).dense_s for m, inputs in pairs) / self.unit)

    def of(
        self, site: Site, factorization: Factorization, view: KernelView, calls: Calls, dense: int
    ) -> int:
        if isinstance(factorization, Leaf):  # It runs as the dense matrix that it is of.
            return dense
        # As a ratio to interleaved times of the dense layer, which a load on the machine affects
        # equally.
        times = [
            _seconds(use.module, layer, inputs)
            for use, layer in self.layers(site, factorization, view)
            for inputs in calls[use.name]
        ]
        share = sum(time.compressed_s for time in times) / sum(time.dense_s for time in times)
        return round(dense * share)


def _seconds(dense: nn.Module, layer: nn.Module, inputs: tuple[Tensor, ...]) -> LatencyComparison:
    return compare_latency(dense, layer, inputs, seconds=0.05)


RESOURCES: dict[str, Resource] = {
    "bytes": Bytes(),
    "params": Params(),
    "macs": MACs(),
    "latency": Latency(),
}


def calls_in(model: nn.Module, sites: Sequence[Site], example: Example) -> Calls:
    """The inputs with which one forward pass calls the modules that use these weights.

    Raises:
        ValueError: a module that is not called by itself.
    """
    uses = [use for site in sites for use in site.uses]
    seen: dict[str, list[tuple[Tensor, ...]]] = {use.name: [] for use in uses}

    def keep(use: Use) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            call = inspect.signature(module.forward).bind(*args, **kwargs)
            call.apply_defaults()  # What was left out between two arguments keeps its place.
            seen[use.name].append(call.args)

        return hook

    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        for use in uses:
            handle = use.module.register_forward_pre_hook(keep(use), with_kwargs=True)
            stack.callback(handle.remove)
        call(model, example)
    never = [name for name, calls in seen.items() if not calls]
    if never:
        raise ValueError(
            f"the layers {never} are not called by themselves in a forward pass of the example, so "
            "their MACs and times cannot be told apart from the rest: leave them out with `where`, "
            "or give a budget of bytes or params"
        )
    return seen
