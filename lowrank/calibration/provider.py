"""Who gives each weight its norm, and what it is asked with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lowrank.factorizations.operations import KernelView
from lowrank.model.sites import Site
from lowrank.norms import IDENTITY, Identity, Norm


@dataclass(frozen=True)
class Job:
    """A compression that wants its norms.

    Attributes:
        model: the dense model.
        compact: the copy of it whose weights are replaced one after the other.
        views: by site name, as which matrix a kernel is seen.
        data: a task, a list of batches, or a `Calibration` made before.
        summary: filled with what a record says about the calibration.
        notes: filled, by site name, with what its report must say.
        unreached: filled, by site name, with why the data say nothing about its weight, which then
            stays as it is.
    """

    model: nn.Module
    compact: nn.Module
    sites: Sequence[Site]
    views: dict[str, KernelView]
    data: Any
    summary: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unreached: dict[str, str] = field(default_factory=dict)


class NormProvider(ABC):
    """In which norms a model is compressed."""

    @property
    @abstractmethod
    def types(self) -> tuple[type[Norm], ...]:
        """The classes of the norms that it gives."""

    @property
    @abstractmethod
    def needs_data(self) -> bool:
        """Whether it is calibrated."""

    def one_shot(self) -> NormProvider:
        """The same norms as far as they can be known before any weight is compressed."""
        return self

    @abstractmethod
    def over(self, job: Job) -> Iterator[tuple[Site, Norm]]:
        """Every site with its norm, but for those that it adds to `job.unreached`.

        Whoever consumes this replaces a site in `job.compact` before asking for the next.

        Raises:
            ValueError: the data are none, do not fit, or reach no site.
        """


@dataclass(frozen=True)
class IdentityNorms(NormProvider):
    """The identity norm for every weight: no data are needed."""

    @property
    def types(self) -> tuple[type[Norm], ...]:
        return (Identity,)

    @property
    def needs_data(self) -> bool:
        return False

    def over(self, job: Job) -> Iterator[tuple[Site, Norm]]:
        for site in job.sites:
            yield site, IDENTITY
