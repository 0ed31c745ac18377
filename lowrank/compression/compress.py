"""`compress`, which compresses a model, and `check`, which finds errors before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lowrank.allocation import Allocation, ByName, Problem, Uniform
from lowrank.allocation.eased import Eased
from lowrank.allocation.values import Values
from lowrank.approximation.weight_checks import check_weight
from lowrank.calibration import (
    CalibratedNorms,
    Calibration,
    IdentityNorms,
    NormProvider,
    at_hand,
    best_norm,
    norm_named,
)
from lowrank.compression.fit import Fit
from lowrank.compression.report import Compressed
from lowrank.compression.walk import Walk
from lowrank.decomposers import Decomposer
from lowrank.measure.macs import layer_macs
from lowrank.model.forward import Example
from lowrank.model.opened import open_weights
from lowrank.model.select import Select
from lowrank.model.sites import Site, find_sites, naming
from lowrank.numerics.checks import check_flag, check_integer
from lowrank.numerics.memo import unchanging, unchanging_meanwhile

Method = Decomposer | Allocation | Mapping[str, Decomposer]
Where = str | Sequence[str] | Select | None


def compress(
    model: nn.Module,
    method: Method,
    where: Where = None,
    example: Example | None = None,
    norm: NormProvider | str | None = None,
    data: Any = None,
    *,
    values: str | None = None,
    strict: bool = False,
    workers: int = 1,
) -> Compressed:
    """Compress the selected weights of a model; the model itself is not changed.

    Linear and bilinear layers, all convolutions, embeddings, recurrent layers, attention and fused
    experts can be selected, and subclasses that compute the same. Weights that are tied are
    decomposed once and stay tied. Hooks of a layer act on what stands in for it.

    If a rule applies to several weights and one of them cannot be compressed as asked (a rank above
    its sides, a ratio out of its reach, no example that reaches it), this is no error: that weight
    takes the nearest possible level, with a note, or stays as it is, listed in `Compressed.left`.

    Args:
        method: one decomposer for all selected weights, an allocation that chooses one for each, or
            decomposers by glob pattern of the weight's name.
        where: glob patterns of names, or a `Select`; all weights if not given.
        example: the inputs of ONE example, by position or by name; if given, the report has the
            MACs of each layer.
        norm: in which norm each weight's error counts; ``"identity"``, ``"diagonal"``, ``"full"``
            and ``"fisher"`` have their defaults. If not given: with data the most that the method
            knows, else the identity norm.
        data: what to calibrate on: a task (its calibration split), batches (tensors, tuples or
            mappings of arguments), or a `Calibration` made before.
        values: ``"float16"`` or ``"bfloat16"``, in which the real values of factors and kept
            weights are stored; the model's own dtype if not given.
        strict: whether a weight that cannot be compressed as asked is an error.
        workers: how many weights are decomposed at the same time, by threads that share those of
            torch. The result is that of one worker with ``torch.get_num_threads() // workers``
            threads, to the bit. Python's own steps run one at a time, so methods of few large
            operations, such as an SVD, gain the most. With sequential calibration the weights of
            one block are independent. What an allocation tries is not divided.

    Raises:
        ValueError: no weight is selected, a weight is not finite, a hyperparameter fits no weight
            (or not one that was named alone), a method does not know the norm, data do not fit or
            would have no effect, or the model does not run on the example; the text names the
            layer. What can be known before the work is.
    """
    own: dict[str, Any] = {"values": values, "strict": strict, "workers": workers}
    return approximated(model, method, where, example, norm, data, **own)


@torch.inference_mode(False)
@unchanging_meanwhile
def approximated(
    model: nn.Module,
    method: Method,
    where: Where = None,
    example: Example | None = None,
    norm: NormProvider | str | None = None,
    data: Any = None,
    *,
    values: str | None = None,
    strict: bool = False,
    workers: int = 1,
    counts_macs: bool = True,
) -> Compressed:
    """What `compress` gives, perhaps without the MACs of the layers.

    Args:
        counts_macs: whether they are counted; else `Compressed.add_macs` fills them in.

    Raises:
        ValueError: as `compress`.
    """
    check_integer("workers", workers, least=1)
    counted = example if counts_macs else None
    allocation, select, data = as_allocation(method), as_select(where), at_hand(data)
    norms, storing = as_norms(norm, allocation, data), Values(values)
    model, sites, skipped, opening = selected(model, select)
    for site in sites:
        with naming(site):
            check_weight(site.matrix())
    if counted is not None:
        before = layer_macs(model, counted)  # Before the work, since the model may not run on it.
    allocation.check_norms(norms.types)
    problem = Problem(model, sites, norms, data, example, storing)
    chosen = allocation.allocate(problem)
    chosen.check(sites, by=type(allocation).__name__)
    out = [site.name for site in sites if site.name not in chosen.decomposers]
    skipped += [(name, "the allocation leaves it as it is") for name in out]
    sites = [site for site in sites if site.name in chosen.decomposers]
    if not sites:
        raise ValueError(f"{type(method).__name__} gives none of the selected layers a decomposer")
    fit = fit_for(sites, allocation, select, strict)
    result = Walk(problem, chosen, fit, workers).run(skipped)

    def again(other: nn.Module, share: float) -> Compressed:
        eased = allocation if share == 1 else Eased(allocation, share)
        own: dict[str, Any] = {"values": values, "strict": strict, "workers": workers}
        own |= {"counts_macs": counts_macs}
        return approximated(other, eased, select, example, norms, data, **own)

    for layer in result.layers:
        layer.notes += opening.get(layer.name, ())
    result.left = [(name, "; ".join((why, *opening.get(name, ())))) for name, why in result.left]
    result.again = again
    if counted is not None:
        result.add_macs(before, layer_macs(result.model, counted))
    return result


def check(
    model: nn.Module,
    method: Method,
    where: Where = None,
    norm: NormProvider | str | None = None,
    *,
    values: str | None = None,
    strict: bool = False,
) -> None:
    """Raise the errors of a compression that can be known without the numbers of weights or data.

    Args:
        model: with its weights or without, on any device.

    Raises:
        ValueError: as `compress`: nothing is selected, the norm is one that the method does not
            know, or a hyperparameter fits no weight, or not one that was named alone.
    """
    allocation, select = as_allocation(method), as_select(where)
    norms, storing = as_norms(norm, allocation, None), Values(values)
    model, sites, *_ = selected(model, select)
    allocation.check_norms(norms.types)
    problem = Problem(model, sites, norms, values=storing)
    allocation.check_shapes(problem)
    plan = allocation.by_shape(problem)
    if plan is not None:
        sites = [site for site in sites if site.name in plan.decomposers]
        fit_for(sites, allocation, select, strict).shaped(plan.decomposers)


class Selected(NamedTuple):
    """A model with the chosen weights.

    Attributes:
        model: with all modules of chosen weights opened, see `lowrank.model.opened`; else itself.
        sites: the chosen weights.
        skipped: (name, reason) of the others.
        notes: of opened modules, by the name of the weight.
    """

    model: nn.Module
    sites: list[Site]
    skipped: list[tuple[str, str]]
    notes: dict[str, tuple[str, ...]]


def selected(model: nn.Module, select: Select) -> Selected:
    """The chosen weights of a model, and (name, reason) of the others; see `Select.split`.

    Raises:
        ValueError: it is no model, or one without its shapes.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be an nn.Module, got {type(model).__name__}: {model!r:.100}")
    lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
    if lazy:
        raise ValueError(
            f"the parameters {lazy} have no shape yet: run the model on an example first"
        )
    entire = open_weights(model)
    sites, skipped = select.split(entire.model)
    if entire.model is model:
        return Selected(model, sites, skipped, {})
    names = {site.name for site in sites}
    part = open_weights(model, {use.name for site in sites for use in site.uses})
    sites = [site for site in find_sites(part.model) if site.name in names]
    # Nobody else has the copy, so that nothing changes its code.
    return Selected(unchanging(part.model), sites, skipped, part.notes)


def fit_for(sites: Sequence[Site], allocation: Allocation, select: Select, strict: bool) -> Fit:
    """The fit of an allocation, by its rules and by the weights that were named alone."""
    check_flag("strict", strict)
    rules = allocation.rules(sites)
    alone = {name for name, rule in rules.items() if rule == name} | select.named(sites)
    return Fit(sites, rules, frozenset(alone), strict)


def as_norms(norm: NormProvider | str | None, allocation: Allocation, data: Any) -> NormProvider:
    """The norms that were asked for, or if none were, those that suit method and data.

    Raises:
        ValueError: there are none of that name, or data that nothing would use.
    """
    if isinstance(norm, str):
        norm = norm_named(norm)
    if norm is None:
        norm = IdentityNorms() if data is None else most_known(allocation, data)
    if not isinstance(norm, NormProvider):
        raise ValueError(
            f"norm={norm!r} must be a word such as 'full', or norms such as CalibratedNorms('full')"
        )
    if data is not None and not norm.needs_data and not allocation.needs_data:
        raise ValueError(
            f"the calibration data would have no effect: {type(allocation).__name__} in {norm} "
            "needs none. Leave out `data`, or give a norm such as norm='full'"
        )
    return norm


def most_known(allocation: Allocation, data: Any) -> NormProvider:
    """The norms that know most of the data, of those that all methods of an allocation know."""
    if isinstance(data, Calibration):
        return CalibratedNorms(data.source["moment"], outputs=data.source["outputs"])
    return best_norm(allocation.check_norms)


def as_select(where: Where) -> Select:
    """The choice of weights that was asked for."""
    if isinstance(where, Select):
        return where
    return Select(include="*" if where is None else where)


def as_allocation(method: Method) -> Allocation:
    """The method as a choice of one decomposer for each weight.

    Raises:
        ValueError: it is none.
    """
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
