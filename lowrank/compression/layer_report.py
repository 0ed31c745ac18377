"""The report of one weight and what stands in for it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from lowrank.decomposers import Decomposer
from lowrank.factorizations import Factorization, Leaf, Scaled, adapters
from lowrank.factorizations.operations import KernelView
from lowrank.model.sites import Site
from lowrank.norms import IDENTITY, Norm
from lowrank.numerics.storage import stored_bytes

# The `kernel` of a weight that another module reads without calling its own, and of one whose
# factors cannot perform the layer's operation one by one.
READ = "multiplied out"
PRODUCT = "factors multiplied"
# The beginning of the note of a weight that could not have the requested level.
NEAREST = "at its nearest level"
# The beginning of the note of a form that does not pay, and the note of one that is no use.
LARGER, WORSE = "larger than the dense", "worse than zeros"
# The note of an adapter over a weight that is looked up, or read by another module.
NO_DROPOUT = "its dropout has no inputs to act on"


@dataclass
class LayerReport:
    """The report of one weight. Sizes in bytes, MACs of one example.

    `relative_error` is ‖W − Ŵ‖ / ‖W‖ in the identity norm, `norm_error` that in the norm in which
    the weight was approximated, which `norm` names. W is the weight of the dense model that was
    compressed, before any recovery, and Ŵ what stands in for it now: after a recovery that trains,
    the difference is that of compression and training together. An error is None where it is not
    known, and a note says why: that in a norm of data once a recovery has changed Ŵ, and those of a
    zero weight that was trained.

    MACs are None without an example, and for a weight that is read by an attention. `kernel` is how
    the weight runs: ``dense``, as one matrix; ``factored``; ``multiplied out`` at every call,
    because another module reads it; or ``factors multiplied``, at every call too, because the layer
    looks rows up or convolves in a way in which some of its factors cannot act.

    `coded` is what each coding of its codes and positions takes, if a recovery coded them; see
    `lowrank.recovery.recode.coded_sizes`.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    decomposer: str
    factorization: str
    relative_error: float | None
    norm: str
    norm_error: float | None
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
    coded: dict[str, int] = field(default_factory=dict)

    def compare(self, weight: Tensor, approximation: Tensor) -> None:
        """Measure the errors anew, where they are not what they were.

        Args:
            weight: of the dense model, (out, in).
            approximation: what stands in for it now, of its shape.
        """
        is_defined = bool(weight.any()) or not bool(approximation.any())
        error = IDENTITY.relative_error(weight, approximation) if is_defined else None
        if error == self.relative_error:
            return  # Then the weight is what it was, and so is its error in any other norm.
        told, self.relative_error, self.norm_error = self.norm_error is None, error, None
        # Of the weight that training left, which is no approximation of the dense one.
        self.notes = tuple(note for note in self.notes if note != WORSE)
        if self.norm == IDENTITY.describe():
            self.norm_error = error
        elif not told:
            self.notes += (f"not known in the {self.norm} norm, since recovery changed the weight",)
        if error is None:
            self.notes += ("no relative error: the dense weight is zero",)

    def row(self) -> dict[str, Any]:
        """The fields as records and tables hold them: ``note`` is all notes in one text, and each
        size in `coded` a field."""
        fields = asdict(self)
        del fields["notes"], fields["coded"]
        return fields | self.coded | {"note": "; ".join(self.notes)}


def report(
    site: Site, decomposer: Decomposer, factorization: Factorization, norm: Norm
) -> LayerReport:
    """The report of one weight and what stands in for it."""
    view = decomposer.kernel_view()
    weight, dense = site.matrix(view), factorization.to_dense()
    shared = len(site.uses) > 1 and norm != IDENTITY
    plain_error = IDENTITY.relative_error(weight, dense)
    norm_error = plain_error if norm == IDENTITY else norm.relative_error(weight, dense)
    size, dense_size = factorization.nbytes, stored_bytes(weight)
    kernel = kernel_of(site, factorization, view)
    said = (
        *larger(factorization, dense_size),
        WORSE if norm_error > 1 else "",
        f"calibrated on the inputs of all {len(site.uses)} modules that share it" if shared else "",
        NO_DROPOUT if drops(factorization) and not has_inputs(site, kernel, view) else "",
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
        kernel=kernel,
        tied_to=[use.name for use in site.uses[1:]],
        notes=(*factorization.notes, *filter(None, said)),
    )


def kernel_of(site: Site, form: Factorization, view: KernelView) -> str:
    """How the form of a weight runs; see `LayerReport`."""
    if not all(use.rule.is_called(use.module) for use in site.uses):
        return READ
    operations = [use.rule.operation(use.module, view) for use in site.uses]
    if any(form.multiplied_out(operation) for operation in operations):
        return PRODUCT
    return "dense" if isinstance(form, Leaf) else "factored"


def drops(form: Factorization) -> bool:
    """Whether a part of a form drops inputs in training."""
    return any(isinstance(part, Scaled) and part.dropout for part in form.modules())


def has_inputs(site: Site, kernel: str, view: KernelView) -> bool:
    """Whether the form of a weight is given vectors to multiply."""
    if kernel == READ:
        return False
    return not any(use.rule.operation(use.module, view).takes_indices for use in site.uses)


def larger(form: Factorization, dense_size: int) -> tuple[str, ...]:
    """The note of a form that takes more bytes than the dense weight; none of adapters, which are
    added to it.
    """
    is_larger = form.nbytes > dense_size and not adapters(form)
    return (f"{LARGER} {dense_size} bytes",) if is_larger else ()
