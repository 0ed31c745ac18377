"""Channels that must be cut together, by the dependency graph of Torch-Pruning.

Fang et al. 2023, "DepGraph: Towards Any Structural Pruning".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from lowrank.export.cutting.channels import KINDS, mixes_channels

# Modules that treat each channel by itself.
BY_CHANNEL = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.PReLU)
# Operations of autograd that do so, and those of which PyTorch makes a Linear layer.
SAFE = frozenset(
    "Abs AdaptiveAvgPool1D AdaptiveAvgPool2D AdaptiveMaxPool2D Add Addmm Alias AvgPool2D AvgPool3D "
    "Clamp ClampMin Clone Div Elu Exp Gelu Hardsigmoid Hardswish Hardtanh LeakyRelu LogSigmoid "
    "MaxPool2DWithIndices MaxPool3DWithIndices Mean Mish Mm MkldnnConvolution Mul "
    "NativeDropout Neg Pow Relu Sigmoid Silu Softplus Squeeze Sub T Tanh ToCopy Unsqueeze "
    "UpsampleBilinear2D UpsampleNearest2D".split()
)

# Operations that give channels other places, and what becomes of those that enter them.
OTHER_PLACES = {
    "ConcatOp": "they go into a concatenation, and channels of those stay",
    "SplitOp": "they are split into parts, and channels of those stay",
}
# A dependency of Torch-Pruning, whose target is cut, and its index by place.
Item = tuple[Any, dict[int, Any]]
Members = list[tuple[nn.Module, dict[int, list[int]]]]


@dataclass(frozen=True)
class ChannelGroup:
    """The outputs of a layer and all that is cut with each of them.

    Attributes:
        root: the layer.
        producers, consumers: layers, and for each output of the root their outputs, or inputs.
        modules: all that are cut.
        why_not: why none of them can be cut; empty if they can.
        beyond: layers whose inputs lie behind what keeps them from being cut.
    """

    root: nn.Module
    producers: Members
    consumers: Members
    modules: list[nn.Module]
    why_not: str
    beyond: list[nn.Module]


class Graph:
    """The dependency graph of a model.

    Raises:
        ValueError: Torch-Pruning cannot trace the model.
    """

    def __init__(self, model: nn.Module, run: Callable[[], Any]) -> None:
        import torch_pruning

        self._model = model
        self._graph = torch_pruning.DependencyGraph()
        trained = {p: p.requires_grad for p in model.parameters()}
        try:
            for parameter in trained:
                parameter.requires_grad_(parameter.is_floating_point())
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")  # On parameters of modules that it does not know.
                self._graph.build_dependency(
                    model, (), lambda *_: run(), _as_outputs, verbose=False
                )
        except Exception as error:  # Whatever the code of a model and the library raise.
            raise ValueError(
                f"Torch-Pruning cannot trace {type(model).__name__}, so that nothing can be cut "
                f"out of it: {type(error).__name__}: {error}"
            ) from error
        finally:
            for parameter, value in trained.items():
                parameter.requires_grad_(value)

    def groups(self) -> list[ChannelGroup]:
        """The groups of all layers, each once."""
        found, seen = [], set()
        for module in self._model.modules():
            if (
                not mixes_channels(module)
                or module in seen
                or module not in self._graph.module2node
            ):
                continue
            found.append(self._group(module))
            seen |= {layer for layer, _ in found[-1].producers}
        return found

    def cut(self, root: nn.Module, outputs: list[int]) -> None:
        """Cut outputs of a layer, and all that belongs to them, in place."""
        items, *_ = self._closure(root, outputs)
        with torch.no_grad():
            for dependency, places in items:
                dependency([place.idx for place in places.values()])

    def _closure(
        self, root: nn.Module, outputs: list[int]
    ) -> tuple[list[Item], str, list[nn.Module]]:
        """All that belongs to some outputs; why they cannot be cut, empty if they can; and the
        layers behind what keeps them from it.

        The library's own search goes on through operations in which channels meet, and does not
        always end there.
        """
        from torch_pruning._helpers import _HybridIndex
        from torch_pruning.dependency import index_mapping
        from torch_pruning.dependency.dependency import Dependency

        index_mapping.update_index_mapping(self._graph)
        pruner: Any = self._graph.get_pruner_of_module(root)
        node, prune = self._graph.module2node[root], pruner.prune_out_channels
        first = Dependency(prune, prune, source=node, target=node)
        found: dict[Any, Item] = {}
        left = [(first, [_HybridIndex(idx=place, root_idx=place) for place in outputs])]
        while left:
            dependency, places = left.pop()
            target = dependency.target.module
            if why_not := _why_unsafe(target):
                return list(found.values()), why_not, self._readers([dependency, *dict(left)])
            _, known = found.setdefault((target, dependency.handler), (dependency, {}))
            fresh = [place for place in places if place.idx not in known]
            known.update((place.idx, place) for place in fresh)
            if not fresh:
                continue
            for following in dependency.target.dependencies:
                if following.is_triggered_by(dependency.handler):
                    mapped = places
                    for mapping in following.index_mapping:
                        mapped = mapped if mapping is None else mapping(mapped)
                    left.append((following, mapped))
        return list(found.values()), "", []

    def _readers(self, starts: list[Any]) -> list[nn.Module]:
        """The layers that read what dependencies lead to, whatever lies between."""
        found, seen, left = dict[nn.Module, None](), set[Any](), list(starts)
        while left:
            dependency = left.pop()
            target = dependency.target.module
            if (target, dependency.handler) in seen:
                continue
            seen.add((target, dependency.handler))
            if mixes_channels(target):
                pruner: Any = self._graph.get_pruner_of_module(target)
                if dependency.handler == pruner.prune_in_channels:
                    found[target] = None
                continue
            left += [
                following
                for following in dependency.target.dependencies
                if following.is_triggered_by(dependency.handler)
            ]
        return list(found)

    def _group(self, root: nn.Module) -> ChannelGroup:
        width = getattr(root, "out_features", None) or root.out_channels
        items, why_not, beyond = self._closure(root, list(range(width)))  # type: ignore[arg-type]
        producers: Members = []
        consumers: Members = []
        modules = dict[nn.Module, None]()
        for dependency, own in items:
            target = dependency.target.module
            places: dict[int, list[int]] = {}
            for place in own.values():
                places.setdefault(place.root_idx, []).append(place.idx)
            if mixes_channels(target):
                pruner: Any = self._graph.get_pruner_of_module(target)
                is_output = dependency.handler == pruner.prune_out_channels
                (producers if is_output else consumers).append((target, places))
            if type(target) in KINDS or type(target) in BY_CHANNEL:
                modules[target] = None
        return ChannelGroup(root, producers, consumers, list(modules), why_not, beyond)


def _is_depthwise(module: object) -> bool:
    if not isinstance(module, _ConvNd) or type(module) not in KINDS:
        return False
    return module.groups == module.in_channels == module.out_channels


def _why_unsafe(target: Any) -> str:
    """Why a channel that goes through an operation cannot be cut; empty if it can."""
    from torch_pruning import ops

    by_channel = mixes_channels(target) or type(target) in BY_CHANNEL or _is_depthwise(target)
    if by_channel or isinstance(target, ops._ReshapeOp):
        return ""
    if isinstance(target, ops._OutputOp):
        return "the model returns them"
    if isinstance(target, ops._ElementWiseOp):
        name = str(target._grad_fn).partition("Backward")[0]
        return "" if name in SAFE else f"they go through {name}, which may mix channels"
    if isinstance(target, nn.Parameter):
        return "they meet a parameter of a module that is not PyTorch's"
    name = type(target).__name__.strip("_")
    if isinstance(target, _ConvNd):
        name = f"a {name} in groups"
    return OTHER_PLACES.get(name) or f"they go through {name}, which may mix channels"


def _as_outputs(outputs: Any) -> list[Tensor]:
    """Outputs that are no module's own, so that the graph knows them as such."""
    found = [x for x in tree_leaves(outputs) if isinstance(x, Tensor) and x.requires_grad]
    if not found:
        raise ValueError("it returns no tensor that depends on its weights")
    return [tensor * 1 for tensor in found]
