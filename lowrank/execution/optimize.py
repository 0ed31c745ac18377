"""`optimize_for`, which gives each factorized layer its fastest kernel on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor, nn

from lowrank.execution.choice import choose
from lowrank.execution.follow import follow
from lowrank.execution.kernel import Accuracy, Goal, Prepared, Work, check_accuracy
from lowrank.execution.kernels import KERNELS
from lowrank.execution.observe import factorized_layers, layer_work
from lowrank.execution.plan import FACTORED, ExecutionPlan, LayerPlan
from lowrank.execution.search import Search, try_layer
from lowrank.execution.substitute import OptimizedLayer, share, substitute
from lowrank.execution.tiled import TiledKernel
from lowrank.execution.timing import threads
from lowrank.measure.bandwidth import read_bandwidth
from lowrank.measure.environment import environment
from lowrank.model.forward import Example, check_example
from lowrank.model.nested import tensors
from lowrank.numerics.checks import check_one_of

MACHINE = ("cpu", "torch")


@dataclass(frozen=True)
class Optimized:
    """A model whose layers run chosen kernels, and which those are.

    Attributes:
        model: for inference; its names and tensors are those of the model that it was made of, on
            the same memory, and it is saved to the same file.
        plan: what was chosen and why.
    """

    model: nn.Module
    plan: ExecutionPlan


def optimize_for(
    model: nn.Module,
    example: Example,
    accuracy: Accuracy = "exact",
    plan: ExecutionPlan | None = None,
    search: Search | None = None,
    goal: Goal = "speed",
) -> Optimized:
    """Let every factorized layer run the fastest kernel for inputs like the example's, or the one
    that takes the least memory.

    Each layer, and each leaf of a product or sum, is timed by itself on the inputs that it gets in
    a run of the example, all kernels in turns; see `choose`. A layer thus is never slower than its
    dense form beyond noise. At another batch size the outputs are still correct, but other kernels
    may be faster. Layers that compression left alone, and weights that an attention reads instead
    of calling, stay as they are.

    Args:
        model: compressed, on the device on which it will run; it is not changed, and later changes
            of its weights do not reach the optimised model.
        example: inputs by position or by name, of the batch size to come.
        accuracy: which changes of numbers are allowed for speed: ``exact``, none but rounding in
            the layer's own dtype; ``bfloat16``; ``int8``, inputs rounded to 8 bits. The plan has
            the error of each layer's outputs that was measured.
        plan: one made before, which is applied without timing anything.
        search: what is tried, and for how long.
        goal: ``memory`` gives each layer the kernel that needs the fewest bytes besides what is
            stored, however slow. Entropy-coded matrices are then decoded in tiles in every pass,
            and never held (`TiledKernel`). The plan has bytes and times of this and of the dense
            matrix. While they are measured, the matrices of one layer after the other are held;
            with a `plan` those of layers that decode in tiles are not.

    Raises:
        ValueError: the model has no factorized layer, or is optimised already; `example` holds no
            inputs; `accuracy` or `goal` does not exist; or the plan does not fit model or machine,
            or is less exact than `accuracy`.
    """
    check_example(example)
    check_accuracy(accuracy)
    check_one_of("goal", goal, get_args(Goal))
    search = search or (Search() if goal == "speed" else Search(kernels=(*KERNELS, TiledKernel())))
    layers = dict(factorized_layers(model))
    if not layers:
        raise ValueError("the model has no factorized layer to run faster: compress it first")
    if any(isinstance(layer, OptimizedLayer) for layer in layers.values()):
        raise ValueError("the model is optimised already: give the model that it was made of")
    compact = share(model).eval()
    works = layer_work(compact, example)
    with threads(search.threads):
        if plan is None:
            plan, runs = _search(works, (accuracy, goal), search, tensors(example)[0])
            read = "its weight is read by another module, or the example does not reach it"
            plan = replace(plan, skipped=tuple((n, read) for n in layers if n not in works))
        else:
            runs = follow(works, plan, search.kernels, accuracy)
    compact.eval()  # Leaves let go of the matrices that they kept while kernels were tried.
    for name, layer in list(factorized_layers(compact)):
        if name in runs:
            substitute(layer, runs[name].run)
    return Optimized(compact, plan)


def _search(
    works: Mapping[str, Work], wanted: tuple[Accuracy, Goal], search: Search, example: Tensor
) -> tuple[ExecutionPlan, dict[str, Prepared]]:
    """Measure, and choose for every layer."""
    (accuracy, goal), layers, runs = wanted, [], {}
    for name, work in works.items():
        found, parts = try_layer(work, accuracy, search, goal)
        chosen = choose(found.trials, accuracy, goal)
        trial, prepared = found.trials[chosen], found.prepared[chosen]
        assert prepared is not None
        runs[name] = prepared
        layers.append(
            LayerPlan(
                name=name,
                factorization=work.factorization.describe(),
                inputs=tuple(work.x.shape),
                kernel=trial.kernel,
                parts=parts[trial.accuracy] if trial.kernel == FACTORED else {},
                accuracy=trial.accuracy,
                error=trial.error or 0.0,
                speedup=trial.speedup or 1.0,
                packed_bytes=prepared.packed_bytes,
                made_bytes=prepared.made_bytes,
                trials=tuple(found.trials),
            )
        )
    found_here = environment()
    machine = {name: str(found_here[name]) for name in MACHINE}
    plan = ExecutionPlan(
        accuracy=accuracy,
        threads=torch.get_num_threads(),
        device=str(example.device),
        machine=machine,
        layers=tuple(layers),
        bandwidth=read_bandwidth(example.device),
    )
    return plan, runs
