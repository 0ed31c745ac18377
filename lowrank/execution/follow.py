"""Apply a plan that was made before, without timing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowrank.execution.kernel import Accuracy, Kernel, Prepared, Work, allowed
from lowrank.execution.observe import leaf_work
from lowrank.execution.plan import FACTORED, ExecutionPlan, LayerPlan
from lowrank.execution.search import assemble, prepare


def follow(
    works: Mapping[str, Work], plan: ExecutionPlan, kernels: Sequence[Kernel], accuracy: Accuracy
) -> dict[str, Prepared]:
    """The kernels of a plan, packed for the layers of a model.

    Raises:
        ValueError: the plan does not fit the model, a kernel is less exact than `accuracy` allows,
            or does not run here.
    """
    loose = [layer.name for layer in plan.layers if not allowed(layer.accuracy, accuracy)]
    if loose:
        raise ValueError(
            f"the plan runs {loose} less exactly than accuracy={accuracy!r} allows: give "
            f"accuracy={plan.accuracy!r}, for which it was made, or optimise without a plan"
        )
    planned = {layer.name: layer for layer in plan.layers}
    if planned.keys() != works.keys():
        missing, surplus = sorted(works.keys() - planned), sorted(planned.keys() - works.keys())
        raise ValueError(
            f"the plan is of another model or example: it lacks {missing} and has {surplus} "
            "besides; optimise without a plan"
        )
    runs = {}
    for name, work in works.items():
        layer, own = planned[name], work.factorization.describe()
        if layer.factorization != own:
            raise ValueError(
                f"layer '{name}' is {own}, and the plan was made for {layer.factorization}: "
                "optimise without a plan"
            )
        try:
            runs[name] = _follow_layer(work, layer, kernels)
        except ValueError as error:
            raise ValueError(f"layer '{name}': {error}") from error
    return runs


def _follow_layer(work: Work, layer: LayerPlan, kernels: Sequence[Kernel]) -> Prepared:
    if layer.kernel != FACTORED:
        return _named(layer.kernel, work, kernels)
    leaves = leaf_work(work)
    if leaves.keys() != layer.parts.keys():
        raise ValueError(
            f"its leaves are {sorted(leaves)}, those of the plan {sorted(layer.parts)}"
        )
    return assemble(work, {p: _named(k, leaves[p], kernels) for p, k in layer.parts.items()})


def _named(name: str, work: Work, kernels: Sequence[Kernel]) -> Prepared:
    """The kernel of that name, packed.

    Raises:
        ValueError: there is none, or it cannot run here.
    """
    kernel = next((kernel for kernel in kernels if kernel.name == name), None)
    if kernel is None:
        raise ValueError(
            f"the plan names the kernel {name!r}, which is none of "
            f"{[kernel.name for kernel in kernels]}: hand it over by Search(kernels=…)"
        )
    why = kernel.refusal(work)
    if why:
        raise ValueError(f"the kernel {name!r} of the plan does not run here: {why}")
    return prepare(kernel, work)
