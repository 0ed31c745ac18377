"""The one walk over a model: select, allocate, calibrate, decompose, replace."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.allocation import Allocation, ByName, Problem, Uniform
from lowrank.calibration import IdentityNorms, Job, Norms, at_hand
from lowrank.decomposers import Decomposer
from lowrank.decomposers.decomposer import check_weight
from lowrank.factorizations import Factorization, Scaled
from lowrank.factorizations.operations import KernelView
from lowrank.memo import unchanging_meanwhile
from lowrank.report import Compressed, LayerReport, count_once, report
from lowrank.select import Select
from lowrank.sites import naming, replace_module


@torch.inference_mode(False)
@unchanging_meanwhile
def compress(
    model: nn.Module,
    method: Decomposer | Allocation | Mapping[str, Decomposer],
    where: str | Sequence[str] | Select | None = None,
    example: tuple[Tensor, ...] | None = None,
    norm: Norms | None = None,
    data: Any = None,
) -> Compressed:
    """Compress the selected weights of a model; the model itself is not changed.

    Every Linear, Conv2d, Embedding, `transformers` Conv1D and packed attention projection can be
    selected. Weights that are tied are decomposed once and stay tied.

    Args:
        method: one decomposer for all selected weights, an allocation that chooses one for each, or
            decomposers by glob pattern of the weight's name.
        where: glob patterns of names, or a `Select`; all weights if not given.
        example: the inputs of ONE example; if given, the report has the MACs of each layer.
        norm: in which norm each weight's error counts; the identity norm, without data, if not
            given.
        data: what to calibrate on, if the norm needs it: a task (its calibration split), a list of
            batches (tensors, tuples or dicts of arguments), or a `Calibration` made before.

    Raises:
        ValueError: no weight is selected, a weight is not finite, a hyperparameter does not fit a
            weight, a method does not know the norm, or the data do not fit; the text names the
            layer.
    """
    norm, data = norm or IdentityNorms(), at_hand(data)
    select = where if isinstance(where, Select) else Select(include="*" if where is None else where)
    sites, skipped = select.split(model)
    for site in sites:
        with naming(site):
            check_weight(site.matrix())
    allocation = _allocation(method)
    allocation.check_norms(norm.types)
    chosen = allocation.allocate(Problem(model, sites, norm, data, example))
    plan = chosen.decomposers
    skipped += [(s.name, "the allocation leaves it as it is") for s in sites if s.name not in plan]
    sites = [site for site in sites if site.name in plan]
    if not sites:
        raise ValueError(f"{type(method).__name__} gives none of the selected layers a decomposer")

    for site in sites:
        with naming(site):
            plan[site.name].check_norms(norm.types)

    # The weights that will be replaced are not copied first.
    memo: dict[int, Any] = {id(site.weight): site.weight for site in sites}
    compact = copy.deepcopy(model, memo)
    layers: dict[str, LayerReport] = {}
    forms: dict[str, Factorization] = {}
    views: dict[str, KernelView] = {site.name: plan[site.name].kernel_view() for site in sites}
    job = Job(model, compact, sites, views, data)
    for site, site_norm in norm.over(job):
        decomposer, view = plan[site.name], views[site.name]
        with naming(site):
            made = chosen.factorizations.get(site.name)
            factorization = (
                site.decompose(decomposer, site_norm) if made is None else copy.deepcopy(made)
            )
            layers[site.name] = report(site, decomposer, factorization, site_norm)
            notes = [layers[site.name].note, job.notes.get(site.name, "")]
            layers[site.name].note = "; ".join(filter(None, notes))
            forms[site.name] = factorization
        del site_norm  # Its memory is that of the statistics, and the next ones are collected now.
        if not site.weight.requires_grad:
            freeze(factorization)
        for use in site.uses:
            old = memo[id(use.module)]
            new = use.rule.build(old, factorization, view).train(old.training)
            compact = replace_module(compact, old, new)
    skipped += job.unreached.items()
    sites = [site for site in sites if site.name in layers]
    in_order = [layers[site.name] for site in sites]
    count_once(in_order, [forms[site.name] for site in sites])
    result = Compressed(compact, in_order, skipped, job.summary or None, chosen.summary or None)
    if example is not None:
        result.count_macs(model, example)
    return result


def freeze(factorization: Factorization) -> None:
    """Keep frozen what stands for a frozen weight; adapters, which are added to it, still train."""
    scaled = [module for module in factorization.modules() if isinstance(module, Scaled)]
    added = {id(parameter) for module in scaled for parameter in module.parameters()}
    for parameter in factorization.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in added)


def _allocation(method: Decomposer | Allocation | Mapping[str, Decomposer]) -> Allocation:
    if isinstance(method, Allocation):
        return method
    if isinstance(method, Decomposer):
        return Uniform(method)
    if isinstance(method, Mapping) and all(isinstance(d, Decomposer) for d in method.values()):
        return ByName(method)
    raise ValueError(
        f"method={method!r} must be a decomposer such as TruncatedSVD(rank=8), an allocation, or "
        "a mapping from patterns of layer names to decomposers"
    )
