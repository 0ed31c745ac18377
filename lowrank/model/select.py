"""Selection of the weights to compress, with a reason for each that is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from lowrank.model.opened import open_weights
from lowrank.model.sites import Site, find_weights
from lowrank.numerics.checks import check_flag, check_integer

SEVERAL = "a name, a glob pattern, or several of them"


@dataclass(frozen=True)
class Select:
    """A choice of weights by name, kind and size.

    Args:
        include: names of modules or glob patterns of them, one of which must match
            (``layer1.*``).
        exclude: glob patterns, none of which may match.
        kinds: class names (``Linear``, ``Conv2d``); empty for all.
        min_params: the fewest values a weight must have.
        first: whether the first weight, in the order of the modules, may be chosen.
        last: whether the last one, normally the classifier or the output head, may be chosen; one
            that is tied to the embeddings is both first and last.
        embeddings: whether a weight that an embedding table uses may be chosen; an output head that
            is tied to one is out with it.
    """

    include: str | Sequence[str] = "*"
    exclude: str | Sequence[str] = ()
    kinds: str | Sequence[str] = ()
    min_params: int = 0
    first: bool = True
    last: bool = True
    embeddings: bool = True

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "kinds"):
            object.__setattr__(self, name, as_names(name, getattr(self, name)))
        check_integer("min_params", self.min_params, least=0)
        for name in ("first", "last", "embeddings"):
            check_flag(name, getattr(self, name))

    def split(self, model: nn.Module) -> tuple[list[Site], list[tuple[str, str]]]:
        """The chosen weights of `model`, opened, and (name, reason) of every matrix that is not.

        Raises:
            ValueError: nothing is chosen, or a kind or pattern decides nothing.
        """
        sites, others = find_weights(open_weights(model).model)
        self._check(sites, others)
        chosen, left = [], []
        for site in sites:
            reason = self._reason(site)
            if reason:
                left.append((site.name, reason))
            else:
                chosen.append(site)
        if not chosen:
            names = ", ".join(site.name for site in sites) or "none"
            raise ValueError(
                f"{self} matches no layer of the model. Weights that can be compressed: {names}."
                + listed(others)
            )
        return chosen, left + others

    def named(self, sites: Sequence[Site]) -> set[str]:
        """The names of the weights that `include` names one by one, and not by a wildcard."""
        said = set(as_tuple(self.include))
        return {site.name for site in sites if said & {use.name for use in site.uses}}

    def _check(self, sites: Sequence[Site], others: Sequence[tuple[str, str]]) -> None:
        """Raise ValueError for a kind or pattern that decides nothing: it is a slip.

        Args:
            others: (name, reason) of the weights that cannot be compressed.
        """
        kinds = sorted({site.kind for site in sites})
        unknown = sorted(set(as_tuple(self.kinds)) - set(kinds))
        if unknown and sites:
            raise ValueError(f"kinds={unknown} are not in the model; it has {kinds}")
        names = [use.name for site in sites for use in site.uses]
        for field in ("include", "exclude"):
            patterns = as_tuple(getattr(self, field))
            idle = [p for p in patterns if not any(matches(name, p) for name in names)]
            # Where no pattern matches, the error about an empty selection says more.
            if idle and (field == "exclude" or len(idle) < len(patterns)):
                meant = [other for other in others if matches(other[0].rpartition(".")[0], idle)]
                raise ValueError(
                    f"{field}={idle} matches none of the layers {names}.{listed(meant)}"
                )

    def _reason(self, site: Site) -> str:
        names = [use.name for use in site.uses]
        if not any(matches(name, self.include) for name in names):
            return f"not in include={self.include!r}"
        if any(matches(name, self.exclude) for name in names):
            return f"in exclude={self.exclude!r}"
        if self.kinds and site.kind not in as_tuple(self.kinds):
            return f"{site.kind} not in kinds={as_tuple(self.kinds)}"
        if site.weight.numel() < self.min_params:
            return f"{site.weight.numel()} params, fewer than min_params={self.min_params}"
        if site.is_first and not self.first:
            return "the first layer, first=False"
        if site.is_last and not self.last:
            return "the last layer, last=False"
        if not self.embeddings and any(isinstance(use.module, nn.Embedding) for use in site.uses):
            return "used by an embedding table, embeddings=False"
        return ""


def listed(others: Sequence[tuple[str, str]]) -> str:
    """The weights that cannot be compressed, with the reasons, for the end of an error."""
    lines = "".join(f"\n{name}: {reason}" for name, reason in others)
    return lines and f" Those that cannot:{lines}"


def as_names(field: str, values: object) -> str | tuple[str, ...]:
    """One name or several; see `as_name`.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return tuple(as_name(field, value, SEVERAL) for value in values)
    return as_name(field, values, SEVERAL)


def as_name(field: str, value: object, allowed: str = "a name or a glob pattern") -> str:
    """A name or pattern; a whole number, as YAML reads the name of a layer such as ``0``, is one.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{field}={value!r:.200} must be {allowed}")


def as_tuple(values: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several as a tuple."""
    return (values,) if isinstance(values, str) else tuple(values)


def matches(name: str, patterns: str | Sequence[str]) -> bool:
    """Whether one of the patterns is the name, taken literally, or matches it as a glob."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in as_tuple(patterns))
