"""The one walk over a model: select, allocate, decompose, replace."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lowrank.allocation import Allocation, ByName, Uniform
from lowrank.decomposers import Decomposer
from lowrank.decomposers.decomposer import check_weight
from lowrank.layers import Site, replace_module
from lowrank.report import Compressed, report
from lowrank.select import Select


def compress(
    model: nn.Module,
    method: Decomposer | Allocation | Mapping[str, Decomposer],
    where: str | Sequence[str] | Select | None = None,
    example: tuple[Tensor, ...] | None = None,
) -> Compressed:
    """Compress the selected weights of a model; the model itself is not changed.

    Every Linear, Conv2d, Embedding, `transformers` Conv1D and packed attention projection can be
    selected. Weights that are tied are decomposed once and stay tied.

    Args:
        method: one decomposer for all selected weights, an allocation that chooses one for each, or
            decomposers by glob pattern of the weight's name.
        where: glob patterns of names, or a `Select`; all weights if not given.
        example: the inputs of ONE example; if given, the report has the MACs of each layer.

    Raises:
        ValueError: no weight is selected, a weight is not finite, or a hyperparameter does not fit
            a weight; the text names the layer.
    """
    select = where if isinstance(where, Select) else Select(include=where or "*")
    sites, skipped = select.split(model)
    for site in sites:
        with naming(site):
            check_weight(site.matrix())
    plan = _allocation(method).allocate(sites)
    skipped += [(s.name, "the allocation leaves it as it is") for s in sites if s.name not in plan]
    sites = [site for site in sites if site.name in plan]

    # The weights that will be replaced are not copied first.
    memo: dict[int, Any] = {id(site.weight): site.weight for site in sites}
    compact = copy.deepcopy(model, memo)
    layers = []
    for site in sites:
        decomposer = plan[site.name]
        view = decomposer.kernel_view()
        with naming(site):
            factorization = decomposer.decompose(site.matrix(view))
            layers.append(report(site, decomposer, factorization))
        for use in site.uses:
            old = memo[id(use.module)]
            compact = replace_module(compact, old, use.rule.build(old, factorization, view))
    compact.train(model.training)
    result = Compressed(compact, layers, skipped)
    if example is not None:
        result.count_macs(model, example)
    return result


@contextmanager
def naming(site: Site) -> Iterator[None]:
    """Put the layer's name before the text of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"layer '{site.name}': {error}") from error


def _allocation(method: Decomposer | Allocation | Mapping[str, Decomposer]) -> Allocation:
    if isinstance(method, Allocation):
        return method
    return Uniform(method) if isinstance(method, Decomposer) else ByName(method)
