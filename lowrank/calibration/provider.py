"""The interface of norm providers, which give each weight its norm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lowrank.factorizations.operations import KernelView
from lowrank.model.sites import Site
from lowrank.norms import IDENTITY, Identity, Norm


def at_once() -> None:
    """Nothing is left to replace: each site was, before the next was asked for."""


@dataclass(frozen=True)
class Job:
    """A compression for which a provider gives the norms.

    Attributes:
        model: the dense model.
        compact: its copy, whose weights are replaced one after the other.
        views: the matrix view of each kernel, by site name.
        data: a task, a list of batches, or a `Calibration` made before.
        summary: filled with the description of the calibration for a record.
        notes: filled with the notes of each site for its report, by site name.
        unreached: filled with the reason why the data reach no use of a weight, by site name; such
            a weight stays as it is.
        folder: where sequential calibration keeps the outputs of finished blocks, and goes on after
            those that are there; None for a temporary one.
        settle: returns when all sites that were given are replaced in `compact`.
    """

    model: nn.Module
    compact: nn.Module
    sites: Sequence[Site]
    views: dict[str, KernelView]
    data: Any
    summary: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unreached: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    settle: Callable[[], None] = at_once


class NormProvider(ABC):
    """The provider of the norms in which the weights of a model are compressed."""

    @property
    @abstractmethod
    def types(self) -> tuple[type[Norm], ...]:
        """The classes of norms that it may give."""

    @property
    @abstractmethod
    def needs_data(self) -> bool:
        """Whether it needs calibration data."""

    def one_shot(self) -> NormProvider:
        """A provider of the same norms that needs no compressed weight: all are known before
        compression.
        """
        return self

    @abstractmethod
    def over(self, job: Job) -> Iterator[tuple[Site, Norm]]:
        """Each site with its norm, except for the sites that it adds to `job.unreached`.

        The caller must replace a site in `job.compact` before it takes the next, or at the latest
        in `job.settle`, which is called before `job.compact` runs.

        Raises:
            ValueError: the data are missing, do not fit, or reach no site.
        """


@dataclass(frozen=True)
class IdentityNorms(NormProvider):
    """The identity norm for every weight, which needs no data."""

    @property
    def types(self) -> tuple[type[Norm], ...]:
        return (Identity,)

    @property
    def needs_data(self) -> bool:
        return False

    def over(self, job: Job) -> Iterator[tuple[Site, Norm]]:
        for site in job.sites:
            yield site, IDENTITY
