"""The budget of a compressed model: a limit on one resource."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lowrank.allocation.resources import RESOURCES
from lowrank.decomposers.decomposer import first_level
from lowrank.model.sites import Site
from lowrank.numerics.checks import (
    check_exactly_one,
    check_number,
    check_one_of,
    check_positive,
)


@dataclass(frozen=True)
class Budget:
    """A limit, given in exactly one of three ways.

    Args:
        ratio: dense over compressed, at least 1.
        limit: in the resource's own unit.
        bits_per_weight: all stored bits of the selected layers over their weights; of bytes and
            ``layers`` only, which it implies.
        resource: ``bytes``, ``params``, ``macs`` (of one example) or ``latency`` (seconds of a
            forward pass of the example, measured layer by layer on this machine).
        of: ``model``: the limit is that of the whole model, with what is not compressed;
            ``layers``: of the selected weights together.

    Raises:
        ValueError: none or several of the three, or values outside their ranges.
    """

    ratio: float | None = None
    limit: float | None = None
    bits_per_weight: float | None = None
    resource: Literal["bytes", "params", "macs", "latency"] = "bytes"
    of: Literal["model", "layers"] = "model"

    def __post_init__(self) -> None:
        check_one_of("resource", self.resource, tuple(RESOURCES))
        check_one_of("of", self.of, ("model", "layers"))
        given = {name: getattr(self, name) for name in ("ratio", "limit", "bits_per_weight")}
        check_exactly_one("Budget", given)
        ((name, value),) = [(name, one) for name, one in given.items() if one is not None]
        if name == "ratio":
            check_number(name, value, "be at least 1 and finite", lambda x: 1 <= x < math.inf)
        else:
            check_positive(name, value)
        if not isinstance(value, int | float):
            object.__setattr__(self, name, float(value))  # Of numpy; a record has plain numbers.
        if self.bits_per_weight is not None and self.resource != "bytes":
            raise ValueError(f"bits_per_weight is a budget of bytes, not of {self.resource}")

    @property
    def level(self) -> float | None:
        """The one of the three that is given."""
        return first_level((self.ratio, self.limit, self.bits_per_weight))

    @property
    def is_of_layers(self) -> bool:
        """Whether the limit is that of the selected layers alone."""
        return self.of == "layers" or self.bits_per_weight is not None

    def allowance(self, sites: Sequence[Site], layers: float, rest: float) -> float:
        """The limit for the selected layers together.

        Args:
            layers: what they take dense.
            rest: what the rest of the model takes.

        Raises:
            ValueError: the rest alone takes more than the limit.
        """
        if self.bits_per_weight is not None:
            return self.bits_per_weight * sum(site.weight.numel() for site in sites) / 8
        base = 0.0 if self.is_of_layers else rest
        limit = (layers + base) / self.ratio if self.ratio is not None else self.limit
        assert limit is not None
        if limit <= base:
            most = self.just(sites, layers, rest, 0.0)
            raise ValueError(
                f"the budget of {self.describe()} is {self._amount(limit)}, and what is never "
                f"compressed (biases, norms, layers that are not selected) alone takes "
                f"{self._amount(base)}, {most}: give a larger budget, select more with `where`, or "
                "use of='layers'"
            )
        return limit - base

    def times(self, sites: Sequence[Site], layers: float, rest: float) -> float:
        """How many times smaller the budget makes what it is a budget of.

        Args:
            layers, rest: as for `allowance`.
        """
        base = 0.0 if self.is_of_layers else rest
        return (layers + base) / (self.allowance(sites, layers, rest) + base)

    def eased(self, share: float, times: float) -> Budget:
        """The ratio at a share of the way from the dense model to this budget.

        Args:
            share: in [0, 1]; at 1 it is the budget itself.
            times: what `times` says.
        """
        if share == 1:
            return self
        whose = "layers" if self.is_of_layers else "model"
        return Budget(ratio=times**share, resource=self.resource, of=whose)

    def just(self, sites: Sequence[Site], layers: float, rest: float, cost: float) -> str:
        """The budget, given in the same way, that would just do: ``a ratio of 7.9``.

        Args:
            layers, rest: as for `allowance`.
            cost: what the selected layers take.
        """
        if self.bits_per_weight is not None:
            return f"{8 * cost / sum(site.weight.numel() for site in sites):.4g} bits per weight"
        base = 0.0 if self.is_of_layers else rest
        if self.ratio is not None:
            return f"a ratio of {(layers + base) / (cost + base):.4g}"
        return f"a limit of {self._amount(cost + base)}"

    def _amount(self, value: float) -> str:
        resource = RESOURCES[self.resource]
        return resource.amount(value / resource.unit)

    def describe(self) -> str:
        """``bytes of the model / 8``."""
        whose = "layers" if self.is_of_layers else "model"
        if self.bits_per_weight is not None:
            return f"{self.bits_per_weight:g} bits per weight of the layers"
        if self.ratio is not None:
            return f"{self.resource} of the {whose} / {self.ratio:g}"
        return f"{self.limit:.10g} {self.resource} of the {whose}"
