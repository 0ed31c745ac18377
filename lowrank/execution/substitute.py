"""Layers and leaves that keep their tensors and run another kernel."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn, Self

from torch import Tensor, nn

from lowrank.execution.kernel import Run
from lowrank.factorizations import Factorization
from lowrank.model.factorized import FactorizedLayer


class OptimizedLayer(FactorizedLayer):
    """A factorized layer that runs a kernel chosen for it, for inference only.

    Its modules, tensors and names are those of the layer, so that a checkpoint of an optimised
    model is that of the model it was made of. The kernel holds a packed copy of the weight, which
    no later change of the weight would reach; what would change it is therefore refused.
    """

    is_packed: ClassVar[bool] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "factorization":
            _refuse("given other factorizations")
        super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Self:
        if mode:
            _refuse("trained")
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        _refuse("moved or converted")

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _refuse("loaded into")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        # The kernel is a function, and so shared by the copies.
        new.__dict__ = copy.deepcopy(self.__dict__, memo)
        return new

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse("pickled")


class BoundLeaf(nn.Module):
    """A leaf inside a copied factorization that runs the kernel chosen for it."""

    _run: Run

    def __call__(self, x: Tensor, *_: Any) -> Tensor:
        return self._run(x)


def substitute(layer: FactorizedLayer, run: Run) -> None:
    """Make `layer` run `run`, in place."""
    layer.__class__ = _with(OptimizedLayer, type(layer))
    layer.__dict__["run"] = run


def with_runs(form: Factorization, runs: Mapping[str, Run]) -> Factorization:
    """A copy of a factorization, on the same tensors, whose leaves at these paths run so."""
    form = share(form)
    for path, run in runs.items():
        leaf = form.get_submodule(path)
        leaf.__class__ = _with(BoundLeaf, type(leaf))
        leaf.__dict__["_run"] = run
    return form


def share(module: Any) -> Any:
    """A copy of a module and all in it on the very same parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


@functools.cache
def _with(mixin: type, kind: type) -> type:
    """The class of modules that are `kind` but for what `mixin` does differently."""
    return type(f"{mixin.__name__.removesuffix('Layer')}{kind.__name__}", (mixin, kind), {})


def _refuse(what: str) -> NoReturn:
    raise ValueError(
        f"an optimised model cannot be {what}, for its kernels hold packed copies of the weights: "
        "do that to the model that optimize_for was given, and optimise again (with plan=… without "
        "measuring). It can be saved by lowrank.save, to the same file as that model"
    )
