"""The division of a checkpoint into parts, each a file that is made by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lowrank.export.streamed.source import CheckpointSource
from lowrank.model.sites import Site

# Bytes of the tensors that are copied as they are, in one file; one tensor may have more.
TOGETHER = 2**28


@dataclass(frozen=True)
class CheckpointPart:
    """One file of the result.

    Attributes:
        number: from 1.
        names: of its tensors in the dense model.
        site: the weight that is compressed; None where they stay as they are.
        numbers: how many there are in them.
    """

    number: int
    names: tuple[str, ...]
    site: Site | None
    numbers: int

    @property
    def file(self) -> str:
        """Its name."""
        return f"lowrank-{self.number:05}.safetensors"

    @property
    def label(self) -> str:
        """A word for people."""
        return self.names[0] if self.site is None else self.site.name


def parts_of(source: CheckpointSource, sites: Sequence[Site]) -> list[CheckpointPart]:
    """All parts: first those that are copied, then one for each weight.

    Args:
        sites: the weights that are compressed.
    """
    inside = {id(parameter) for site in sites for parameter in site.parameters}
    rest = [name for name in source.names if id(source.tensor(name)) not in inside]
    found: list[tuple[tuple[str, ...], Site | None]] = [
        (group, None) for group in _together(source, rest)
    ]
    found += [((f"{s.name}.{s.uses[0].rule.parameter}",), s) for s in sites]
    return [
        CheckpointPart(number, names, site, sum(_numel(source, name) for name in names))
        for number, (names, site) in enumerate(found, start=1)
    ]


def _together(source: CheckpointSource, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    group: list[str] = []
    size = 0
    for name in names:
        own = _numel(source, name) * source.tensor(name).dtype.itemsize
        if group and size + own > TOGETHER:
            yield tuple(group)
            group, size = [], 0
        group.append(name)
        size += own
    if group:
        yield tuple(group)


def _numel(source: CheckpointSource, name: str) -> int:
    return math.prod(source.tensor(name).shape)
