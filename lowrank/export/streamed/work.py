"""The work on the parts of a checkpoint: each is read, compressed and written by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.allocation import Problem
from lowrank.allocation.values import Values
from lowrank.approximation.weight_checks import check_weight
from lowrank.compression.compress import (
    Selected,
    as_allocation,
    as_select,
    check,
    fit_for,
    selected,
)
from lowrank.compression.walk import Walk
from lowrank.export.skeleton import Layer
from lowrank.export.streamed.parts import CheckpointPart, parts_of
from lowrank.export.streamed.request import Request
from lowrank.export.streamed.source import CheckpointSource
from lowrank.factorizations import Factorization, adapters
from lowrank.files.tensor_files import TensorFile, write
from lowrank.files.tensor_folders import PART, PART_FORMAT, opened_part
from lowrank.model.contents import contents
from lowrank.model.select import Select
from lowrank.model.sites import Site, naming, stand_in
from lowrank.norms import IDENTITY, Norm
from lowrank.numerics.memo import MEMO


class CheckpointWork:
    """The parts of a request, and how they are made.

    Attributes:
        source: the checkpoint.
        skipped: (name, reason) of the weights that nobody asked to compress.
        parts: all files of the result.
        walk: decomposes weights, and says which cannot be.

    Raises:
        ValueError: as `compress_checkpoint`, for all that can be known before the work.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.hash = request, request.hash
        self.source = CheckpointSource(request.source, request.dtype)
        allocation, select = as_allocation(request.method), as_select(request.where)
        model, sites, self.skipped, _ = selected_in(self.source, select)
        own = {"values": request.values, "strict": request.strict}
        check(model, request.method, request.where, request.norm, **own)
        problem = Problem(model, sites, request.norm, request.data, None, Values(request.values))
        plan = allocation.by_shape(problem)
        if plan is None:
            raise ValueError(
                f"{type(allocation).__name__} chooses by the numbers of all weights at once: "
                "compress in memory, or give a decomposer or a mapping of patterns to decomposers"
            )
        plan.check(sites, by=type(allocation).__name__)
        out = [site.name for site in sites if site.name not in plan.decomposers]
        self.skipped += [(name, "the allocation leaves it as it is") for name in out]
        sites = [site for site in sites if site.name in plan.decomposers]
        if not sites:
            raise ValueError(f"{type(allocation).__name__} gives no selected layer a decomposer")
        self.walk = Walk(problem, plan, fit_for(sites, allocation, select, request.strict))
        self.parts = parts_of(self.source, sites)

    def done(self, part: CheckpointPart) -> TensorFile | None:
        """The file of a part, if it is there.

        Raises:
            ValueError: something else is there.
        """
        path = self.request.target / part.file
        if not path.exists():
            return None
        file = opened_part(path)
        if file.header.get("request") != self.hash or file.header.get("number") != part.number:
            raise ValueError(f"{path} is of another compression: remove it, or name another folder")
        return file

    def fitting(self) -> set[str]:
        """The names of the weights that can be compressed, by their shapes."""
        walk = self.walk
        return {*replace(walk.fit, notes={}, left={}).shaped(walk.chosen.decomposers)}

    @torch.inference_mode(False)
    def make(
        self, part: CheckpointPart, norm: Norm = IDENTITY, notes: tuple[str, ...] = ()
    ) -> Factorization | None:
        """Write the file of a part, whole or not at all.

        Args:
            norm: in which the error of its weight counts.
            notes: for its report.

        Returns:
            What stands for its weight; None where that stays as it is.

        Raises:
            ValueError: the weight is not finite, or must be compressed as asked and cannot be.
            OSError: it cannot be written.
        """
        if part.site is None:
            self._write(part, {name: self.source.read(name) for name in part.names}, {})
            return None
        weight = nn.Parameter(self.source.read(part.names[0]), part.site.weight.requires_grad)
        # The results of one weight are of no use to the others.
        with MEMO.passing(), holding(part.site, weight):
            form = self._decomposed(part.site, norm)
            if form is None:
                self._write(part, {part.names[0]: weight}, self._left(part.site))
                return None
            self._write(part, *self._described(part.site, form, notes))
        return form

    def leave(self, part: CheckpointPart, why: str) -> None:
        """Write the file of a part whose weight stays as it is, because no data reach it.

        Raises:
            ValueError: it must be compressed as asked.
            OSError: it cannot be written.
        """
        assert part.site is not None
        self.walk.fit.leave(part.site, ValueError(f"layer '{part.site.name}': {why}"))
        name = part.names[0]
        self._write(part, {name: self.source.read(name)}, self._left(part.site))

    def _left(self, site: Site) -> dict[str, Any]:
        return {"left": str(self.walk.fit.left[site.name])}

    def _write(
        self, part: CheckpointPart, tensors: dict[str, Tensor], said: dict[str, Any]
    ) -> None:
        header = {"format": PART_FORMAT, "request": self.hash, "number": part.number, **said}
        write(self.request.target / part.file, tensors, PART, header)

    def _decomposed(self, site: Site, norm: Norm) -> Factorization | None:
        """What stands for a weight that is there; None where that stays as it is."""
        walk, name = self.walk, site.name
        with naming(site):
            check_weight(site.matrix())
        try:
            with naming(site):
                walk.plan[name] = walk.fit.at_nearest(site, walk.chosen.decomposers[name])
                walk.plan[name].check_norms((type(norm),))
                walk.decompose(site, norm)
        except ValueError as error:
            walk.fit.leave(site, error)
            return None
        form = walk.forms.pop(name)
        if adapters(form):
            raise ValueError(
                f"layer '{name}': {walk.plan[name]} makes adapters, which are trained next, in "
                "memory: compress there"
            )
        return form

    def _described(
        self, site: Site, form: Factorization, notes: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors of a form, by their names in the model, and what the header says of them."""
        walk, name = self.walk, site.name
        report, view = walk.layers.pop(name), walk.plan[name].kernel_view()
        report.notes += walk.fit.notes.get(name, ()) + notes
        new: list[Any] = [stand_in(one, one.module, form, view) for one in site.uses]
        kinds = [module.settings for module in new]
        layer = Layer(form, new[0].view, [one.name for one in site.uses], kinds)
        inside, found = f"{name}.factorization.", contents(form)
        if found.views:
            raise ValueError(f"layer '{name}': tensors of {form.describe()} overlap")
        frozen = [n for n, p in form.named_parameters() if not p.requires_grad]
        said = {
            "layer": layer.to_json(),
            "report": asdict(report),
            "same": {inside + n: inside + first for n, first in found.same.items()},
            "frozen": [inside + n for n in frozen],
        }
        return {inside + n: tensor for n, tensor in found.tensors.items()}, said


@contextmanager
def holding(site: Site, weight: nn.Parameter) -> Iterator[None]:
    """Inside, the modules of a site have this weight."""
    before = site.weight
    for use in site.uses:
        use.module._parameters[use.rule.parameter] = weight
    try:
        yield
    finally:
        for use in site.uses:
            use.module._parameters[use.rule.parameter] = before


def selected_in(source: CheckpointSource, select: Select) -> Selected:
    """The chosen weights of a checkpoint, whose model then has the modules around them opened.

    Raises:
        ValueError: one of them is a part of a tensor of which no single parts are read.
    """
    found = selected(source.model, select)
    if found.model is not source.model:
        source.open(found.model)
    return found
