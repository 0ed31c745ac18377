"""The report of a compression, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from torch import nn

from lowrank.decomposers import Decomposer
from lowrank.factorizations import Factorization, Leaf, Scaled
from lowrank.files.extras import need
from lowrank.measure.size import identity, leaves
from lowrank.model.sites import Site
from lowrank.norms import IDENTITY, Norm
from lowrank.numerics.storage import stored_bytes

# The `kernel` of a weight that another module reads without calling its own, and of one whose
# factors cannot perform the layer's operation one by one.
READ = "multiplied out"
PRODUCT = "factors multiplied"
# The beginning of the note of a weight that could not have the requested level.
NEAREST = "at its nearest level"


@dataclass
class LayerReport:
    """The report of one weight. Sizes in bytes, MACs of one example.

    `relative_error` is that in the identity norm, `norm_error` that in the norm in which the weight
    was approximated, which `norm` names.

    MACs are None without an example, and for a weight that is read by an attention. `kernel` is how
    the weight runs: ``dense``, as one matrix; ``factored``; ``multiplied out`` at every call,
    because another module reads it; or ``factors multiplied``, at every call too, because the layer
    looks rows up or convolves in a way in which some of its factors cannot act.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    decomposer: str
    factorization: str
    relative_error: float
    norm: str
    norm_error: float
    dense_bytes: int
    bytes: int
    dense_params: int
    params: int
    bits_per_weight: float
    kernel: str
    dense_macs: int | None = None
    macs: int | None = None
    tied_to: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """The fields as records and tables hold them: ``note`` is all notes in one text."""
        fields = asdict(self)
        del fields["notes"]
        return fields | {"note": "; ".join(self.notes)}


# Compresses a dense model in the way in which another was, at a share of the way to the levels of
# the method; see `lowrank.allocation.eased.Eased`.
Again = Callable[[nn.Module, float], "Compressed"]


@dataclass
class Compressed:
    """A compressed model and what was done to each of its weights.

    Attributes:
        model: the compressed model.
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
        """Become another compressed model, with its report."""
        for one in fields(self):
            setattr(self, one.name, getattr(other, one.name))

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

    def recount(self) -> None:
        """Count bytes and params of each layer anew, for a model that was trained since.

        A weight of few bits, such as an adapter that begins at zero, has all its bits afterwards.
        """
        stand_ins = [self.model.get_submodule(layer.name) for layer in self.layers]
        forms = [cast(Factorization, module.factorization) for module in stand_ins]
        for layer, form in zip(self.layers, forms, strict=True):
            layer.bytes, layer.params = form.nbytes, form.params
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


def report(
    site: Site, decomposer: Decomposer, factorization: Factorization, norm: Norm
) -> LayerReport:
    """The report of one weight and what stands in for it."""
    weight = site.matrix(decomposer.kernel_view())
    called = all(use.rule.is_called(use.module) for use in site.uses)
    own = "dense" if isinstance(factorization, Leaf) else "factored"
    operations = [use.rule.operation(use.module, decomposer.kernel_view()) for use in site.uses]
    if any(factorization.multiplied_out(operation) for operation in operations):
        own = PRODUCT
    shared = len(site.uses) > 1 and norm != IDENTITY
    dense = factorization.to_dense()
    plain_error = IDENTITY.relative_error(weight, dense)
    norm_error = plain_error if norm == IDENTITY else norm.relative_error(weight, dense)
    size, dense_size = factorization.nbytes, stored_bytes(weight)
    adds = any(isinstance(module, Scaled) for module in factorization.modules())
    said = (
        f"larger than the dense {dense_size} bytes" if size > dense_size and not adds else "",
        "worse than zeros" if norm_error > 1 else "",
        f"calibrated on the inputs of all {len(site.uses)} modules that share it" if shared else "",
    )
    return LayerReport(
        name=site.name,
        kind=site.kind,
        shape=factorization.shape,
        decomposer=repr(decomposer),
        factorization=factorization.describe(),
        relative_error=plain_error,
        norm=norm.describe(),
        norm_error=norm_error,
        dense_bytes=dense_size,
        bytes=size,
        dense_params=weight.numel(),
        params=factorization.params,
        bits_per_weight=8 * size / weight.numel(),
        kernel=own if called else READ,
        tied_to=[use.name for use in site.uses[1:]],
        notes=(*factorization.notes, *filter(None, said)),
    )


def count_once(layers: Sequence[LayerReport], forms: Sequence[Factorization]) -> None:
    """Take from each report what a layer before it has already counted, such as a shared basis."""
    seen: set[Hashable] = set()
    for layer, form in zip(layers, forms, strict=True):
        stored = {identity(tensor): tensor for tensor in form.state_dict().values()}
        again = sum(stored_bytes(tensor) for key, tensor in stored.items() if key in seen)
        for leaf in leaves(form) if again else ():
            own = {identity(t) for t in [*leaf.parameters(), *leaf.buffers()]}
            layer.params -= leaf.params if own <= seen else 0
        layer.bytes -= again
        layer.bits_per_weight = 8 * layer.bytes / layer.dense_params
        seen |= {key for key, tensor in stored.items() if tensor.numel()}
