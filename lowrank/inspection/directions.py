"""Which singular directions of a layer carry which classes or tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lowrank.inspection.similarity import first_of
from lowrank.model.copying import copied
from lowrank.model.forward import evaluating
from lowrank.model.nested import tensors
from lowrank.model.sites import Site, find_sites
from lowrank.numerics.checks import check_integer
from lowrank.tasks.task import Task


@dataclass(frozen=True, eq=False)
class DirectionDrops:
    """What each class loses when a singular direction of a layer is removed.

    Attributes:
        layer: its name.
        classes: the numbers of the classes or tokens.
        drops: float64 (directions, classes), the mean fall of the logit of the right class, over
            the predictions of that class, when σᵢ uᵢ vᵢᵀ is taken out of the weight.
        sigma: float64 (directions,), the singular values, descending.
        rank: the number of all directions of the weight, min(out, in).
    """

    layer: str
    classes: tuple[int, ...]
    rank: int
    drops: Tensor = field(repr=False)
    sigma: Tensor = field(repr=False)


def direction_drops(
    model: nn.Module,
    task: Task,
    layer: str | None = None,
    directions: int = 8,
    examples: int = 256,
    most: int = 12,
) -> DirectionDrops:
    """Run a model once without each of the first singular directions of a layer.

    A logit falls or rises by what the direction gave it, the layers after it included. Logits have
    no zero point, so only differences between classes and directions speak.

    Args:
        model: a dense one; it is not changed.
        layer: a module that holds a weight; the last one if not given.
        directions: how many, from the largest singular value on.
        examples: the first ones of the test split.
        most: classes that are shown at most, the most frequent among the targets.

    Raises:
        ValueError: no such layer, or a task whose outputs are no scores of its targets.
    """
    for name, value in (("directions", directions), ("examples", examples), ("most", most)):
        check_integer(name, value, least=1)
    own = copied(model).model
    site = site_of(own, layer)
    batch = first_of(task, examples)
    matrix = site.matrix().double()
    left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    count = min(directions, len(sigma))
    use = site.uses[0]
    with evaluating(own), torch.no_grad():
        before, targets = right_scores(task.forward(own, batch), batch.targets)
        classes = _frequent(targets, most)
        drops = []
        for index in range(count):
            part = sigma[index] * torch.outer(left[:, index], right[index])
            changed = use.rule.as_weight(use.module, matrix - part, "channel")
            for parameter in site.parameters:
                parameter.copy_(changed.reshape(parameter.shape))
            after, _ = right_scores(task.forward(own, batch), batch.targets)
            fallen = before - after
            drops.append(torch.stack([fallen[targets == one].mean() for one in classes]))
    found = torch.stack(drops), sigma[:count]
    return DirectionDrops(site.name, tuple(classes), len(sigma), *found)


def right_scores(outputs: object, targets: object) -> tuple[Tensor, Tensor]:
    """The score of the right class of each prediction, float64 (n,), and its number, (n,).

    Targets below 0 do not count.

    Raises:
        ValueError: none of the outputs has an axis of classes beside the axes of the targets.
    """
    scores = scores_of_targets(outputs, targets)
    assert isinstance(targets, Tensor)
    counted = targets >= 0
    right = targets[counted]
    return scores[counted].double().gather(1, right[:, None])[:, 0], right


def scores_of_targets(outputs: object, targets: object) -> Tensor:
    """The scores among the outputs, with the axes of the targets and then that of the classes.

    Raises:
        ValueError: none of the outputs has an axis of classes beside the axes of the targets.
    """
    if isinstance(targets, Tensor) and not targets.is_floating_point():
        for tensor in tensors(outputs):
            for axis in (-1, 1):
                if tensor.ndim == targets.ndim + 1:
                    scores = tensor.movedim(axis, -1)
                    if scores.shape[:-1] == targets.shape:
                        return scores
    raise ValueError(
        "the task's outputs are no scores of classes or tokens beside its targets, so there is no "
        "logit that could fall"
    )


def site_of(model: nn.Module, layer: str | None) -> Site:
    """The weight of a layer; that of the last one if no name is given.

    Raises:
        ValueError: there is none of that name.
    """
    sites = {use.name: site for site in find_sites(model) for use in site.uses}
    if not sites:
        raise ValueError("the model has no layer with a weight")
    name = list(sites)[-1] if layer is None else layer
    if name not in sites:
        raise ValueError(f"layer={layer!r} holds no weight: there are {', '.join(sites)}")
    return sites[name]


def _frequent(targets: Tensor, most: int) -> list[int]:
    """The most frequent classes, in the order of their numbers."""
    numbers, counts = targets.unique(return_counts=True)
    return sorted(numbers[counts.argsort(descending=True, stable=True)[:most]].tolist())
