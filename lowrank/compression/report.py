"""The report of a compression, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from torch import nn

from lowrank.compression.layer_report import LARGER, NEAREST, READ, LayerReport, kernel_of, larger
from lowrank.factorizations import Factorization
from lowrank.files.extras import need
from lowrank.measure.size import identity, leaves
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.sites import find_sites
from lowrank.numerics.storage import stored_bytes


class Reported:
    """The tables and words that reports of weights have in common.

    Attributes:
        layers: one report for each compressed weight.
        left: (name, reason) of every selected weight that stays as it is.
        model_params: the parameters of the dense model.
    """

    layers: list[LayerReport]
    left: list[tuple[str, str]]
    model_params: int

    def to_frame(self) -> Any:
        """The layer reports as a pandas DataFrame.

        Raises:
            MissingExtra: pandas is not installed; it is in the extra ``reports``.
        """
        need("a data frame", "pandas")
        import pandas as pd

        return pd.DataFrame([layer.row() for layer in self.layers])

    @property
    def coverage(self) -> float:
        """The share of the dense model's parameters that is in weights that were compressed.

        Those that were kept dense, because nothing else would be smaller, are not.
        """
        shrunk = [layer for layer in self.layers if layer.bytes < layer.dense_bytes]
        return sum(layer.dense_params for layer in shrunk) / self.model_params

    def summary(self) -> str:
        """Such as ``12 layers with 98.2 % of the parameters compressed, 1 left as it is``."""
        count = (
            f"{len(self.layers)} layers compressed, {100 * self.coverage:.1f} % of the parameters"
        )
        nearest = sum(any(n.startswith(NEAREST) for n in layer.notes) for layer in self.layers)
        parts = [count, f"{nearest} at the nearest level" if nearest else ""]
        parts.append(f"{len(self.left)} left as they are" if self.left else "")
        return ", ".join(filter(None, parts))


# Compresses a dense model in the way in which another was, at a share of the way to the levels of
# the method; see `lowrank.allocation.eased.Eased`.
Again = Callable[[nn.Module, float], "Compressed"]


@dataclass
class Compressed(Reported):
    """A compressed model and what was done to each of its weights.

    Attributes:
        model: the compressed model.
        dense: the model that was compressed; not a copy, or one on the same tensors in which each
            weight is a module's own (see `lowrank.model.opened`). It stays in memory as long as
            this does, and `remeasure` compares to what it is then, trained or changed.
        layers: one report for each selected weight, in the order of the model.
        skipped: (name, reason) of every weight matrix that nobody asked to compress, or that cannot
            be replaced.
        left: (name, reason) of every selected weight that could not be compressed as asked, and
            stays as it is.
        model_params: the parameters of the dense model.
        calibration: how the data came into it; None if none were used.
        allocation: how the decomposers were chosen; None if by a plain rule.
        again: compresses a dense model of the same layers in the same way; None if not known.
    """

    model: nn.Module
    dense: nn.Module = field(repr=False, compare=False)
    layers: list[LayerReport]
    skipped: list[tuple[str, str]]
    left: list[tuple[str, str]] = field(default_factory=list)
    model_params: int = 0
    calibration: dict[str, Any] | None = None
    allocation: dict[str, Any] | None = None
    again: Again | None = field(default=None, repr=False, compare=False)

    def must_know_how(self) -> Again:
        """What compresses in the same way.

        Raises:
            ValueError: it is not known.
        """
        if self.again is None:
            raise ValueError(
                "this compressed model does not know how it was made: give the result of "
                "lowrank.compress, whose `again` compresses in the same way"
            )
        return self.again

    def take(self, other: Compressed) -> None:
        """Become another compressed model, with its report; `dense` stays."""
        for one in fields(self):
            if one.name != "dense":
                setattr(self, one.name, getattr(other, one.name))

    def remeasure(self) -> None:
        """Measure bytes, params, errors and kernel of each layer anew, for a model that a recovery
        changed since.

        A weight of few bits, such as an adapter that begins at zero, has all its bits after
        training, and a recovery may have put another form in its place.
        """
        sites = {site.name: site for site in find_sites(self.dense)}
        forms = []
        for layer in self.layers:
            stand_in = cast(FactorizedLayer, self.model.get_submodule(layer.name))
            site, form, view = sites[layer.name], stand_in.factorization, stand_in.view
            forms.append(form)
            layer.bytes, layer.params = form.nbytes, form.params
            layer.factorization, layer.kernel = form.describe(), kernel_of(site, form, view)
            layer.notes = tuple(n for n in layer.notes if not n.startswith(LARGER))
            layer.notes += larger(form, layer.dense_bytes)
            layer.compare(site.matrix(view), form.to_dense())
        count_once(self.layers, forms)

    def add_macs(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Fill the MACs of each layer.

        Args:
            before, after: what `layer_macs` says of the dense and of the compressed model.
        """
        for layer in self.layers:
            if layer.kernel == READ:
                continue  # Their MACs are those of the attention that reads them.
            names = [layer.name, *layer.tied_to]
            layer.dense_macs = sum(before[name] for name in names)
            layer.macs = sum(after[name] for name in names)


def count_once(layers: Sequence[LayerReport], forms: Sequence[Factorization]) -> None:
    """Take from each report what a layer before it has already counted, such as a shared basis."""
    seen: set[Hashable] = set()
    for layer, form in zip(layers, forms, strict=True):
        stored = {identity(tensor): tensor for tensor in form.state_dict().values()}
        again = sum(stored_bytes(tensor) for key, tensor in stored.items() if key in seen)
        for leaf in leaves(form) if again else ():
            own = {identity(t) for t in leaf.state_dict().values() if t.numel()}
            layer.params -= leaf.params if own <= seen else 0
        layer.bytes -= again
        layer.bits_per_weight = 8 * layer.bytes / layer.dense_params
        seen |= {key for key, tensor in stored.items() if tensor.numel()}
