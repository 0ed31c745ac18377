"""The walk over the weights of a model: each is decomposed in its norm, and replaced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from lowrank.allocation import Plan, Problem
from lowrank.calibration import Job
from lowrank.compression.crew import Crew
from lowrank.compression.fit import Fit
from lowrank.compression.layer_report import LayerReport, report
from lowrank.compression.report import Compressed, count_once
from lowrank.decomposers import Decomposer
from lowrank.decomposers.decomposer import Unfit
from lowrank.factorizations import Factorization, adapters
from lowrank.factorizations.operations import KernelView
from lowrank.model.copying import Copied, copied
from lowrank.model.save_guard import refuse_other_files
from lowrank.model.shared_memory import identity
from lowrank.model.sites import Places, Site, naming, stand_in
from lowrank.norms import Norm


@dataclass
class Walk:
    """One compression, from the plan to the result.

    Args:
        problem: model, norms, data and how values are stored.
        chosen: which decomposer each weight is to get.
        fit: which weights can take it.
        workers: how many weights are decomposed at the same time.

    Attributes:
        plan: the decomposers that fit.
        layers, forms: by the name of the weight, what was made.
    """

    problem: Problem
    chosen: Plan
    fit: Fit
    workers: int = 1
    plan: dict[str, Decomposer] = field(default_factory=dict)
    layers: dict[str, LayerReport] = field(default_factory=dict)
    forms: dict[str, Factorization] = field(default_factory=dict)

    def run(self, skipped: list[tuple[str, str]]) -> Compressed:
        """Compress a copy of the model.

        Args:
            skipped: (name, reason) of the weights that nobody asked to compress.
        """
        self.plan = self.fit.shaped(self.chosen.decomposers)
        sites = [site for site in self.fit.sites if site.name in self.plan]
        # Each of them once, by the first weight that it was given.
        for site in {id(self.plan[site.name]): site for site in reversed(sites)}.values():
            with naming(site):
                self.plan[site.name].check_norms(self.problem.norm.types)
        # The weights that will be replaced are not copied first.
        copies = copied(self.problem.model, [p for site in sites for p in site.parameters])
        places = Places(copies.model)
        views: dict[str, KernelView] = {
            site.name: self.plan[site.name].kernel_view() for site in sites
        }

        def finish(site: Site, made: Callable[[], None]) -> None:
            """Put what was made in its place, here and in the order of the weights."""
            try:
                made()
            except ValueError as error:
                self.leave(site, error, copies)
            for use in site.uses if site.name in self.forms else ():
                old = copies.of[id(use.module)]
                new = stand_in(use, old, self.forms[site.name], views[site.name])
                places.replace(old, new)

        with Crew(self.workers, finish) as crew:
            data, settle = self.problem.data, crew.settle
            job = Job(self.problem.model, copies.model, sites, views, data, settle=settle)
            for site, norm in self.problem.norm.over(job):
                crew.begin(site, partial(self._named, site, norm))
                del norm  # Its memory is that of the statistics, and next ones are collected now.
            crew.settle()
        for site in sites:
            if site.name in job.unreached:
                error = ValueError(f"layer '{site.name}': {job.unreached[site.name]}")
                self.leave(site, error, copies)
        self.fit.check()
        return self.result(places.model, skipped, job)

    def _named(self, site: Site, norm: Norm) -> None:
        with naming(site):
            self.decompose(site, norm)

    def decompose(self, site: Site, norm: Norm) -> None:
        """Make the factorization of a weight, and its report."""
        made = self.chosen.factorizations.get(site.name)
        try:
            form = copy.deepcopy(made) if made else self._made(site, norm)
        except Unfit as error:
            self.plan[site.name] = self.fit.instead(site, error)
            form = self._made(site, norm)
        decomposer = self.plan[site.name]
        if not site.weight.requires_grad:
            freeze(form)
        self.layers[site.name] = report(site, decomposer, form, norm)
        self.forms[site.name] = form

    def _made(self, site: Site, norm: Norm) -> Factorization:
        return self.problem.decompose(site, self.plan[site.name], norm)

    def leave(self, site: Site, error: ValueError, copies: Copied) -> None:
        """Let a weight stay as it is, in memory of its own."""
        self.fit.leave(site, error)
        own = nn.Parameter(site.weight.detach().clone(), site.weight.requires_grad)
        for use in site.uses:
            copies.of[id(use.module)]._parameters[use.rule.parameter] = own

    def result(self, compact: nn.Module, skipped: list[tuple[str, str]], job: Job) -> Compressed:
        """The compressed model and its report."""
        names = [site.name for site in self.fit.sites if site.name in self.layers]
        layers = [self.layers[name] for name in names]
        for layer in layers:
            layer.notes += self.fit.notes.get(layer.name, ()) + job.notes.get(layer.name, ())
        count_once(layers, [self.forms[name] for name in names])
        refuse_other_files(compact)
        distinct = {identity(p): p.numel() for p in self.problem.model.parameters()}
        return Compressed(
            compact,
            self.problem.model,
            layers,
            skipped,
            left=[(name, str(error)) for name, error in self.fit.left.items()],
            model_params=sum(distinct.values()),
            calibration=job.summary or None,
            allocation=self.chosen.summary or None,
        )


def freeze(factorization: Factorization) -> None:
    """Keep frozen what stands for a frozen weight; adapters, which are added to it, still train."""
    added = {id(p) for part in adapters(factorization) for p in part.parameters()}
    for parameter in factorization.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in added)
