"""The weights of a model, and the modules that use each."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from lowrank.decomposers.decomposer import Decomposer
from lowrank.factorizations import Factorization
from lowrank.factorizations.operations import KernelView
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.holders import held_weights
from lowrank.model.layers import Rule, rule_for, why_no_rule
from lowrank.model.shared_memory import identity, overlapping
from lowrank.norms import Norm

# The attributes of a module that hold its hooks.
HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)


@dataclass(frozen=True)
class Use:
    """One module that uses a weight, by its path in the model."""

    name: str
    rule: Rule
    module: nn.Module


@dataclass(frozen=True)
class Site:
    """A weight of a model and the modules that use it: one, or several that are tied.

    Args:
        uses: in the order of the model; the first gives the site its name.
        is_first, is_last: whether no other weight of the model is used before, or after.
    """

    uses: tuple[Use, ...]
    is_first: bool = False
    is_last: bool = False

    @property
    def name(self) -> str:
        """The path of the first module that uses the weight."""
        return self.uses[0].name

    @property
    def kind(self) -> str:
        """The class name of that module, or of one that reads it: Linear, Conv2d, LSTM, …"""
        return self.uses[0].rule.kind(self.uses[0].module)

    @property
    def weight(self) -> nn.Parameter:
        """The parameter in the module's own layout; of modules that are tied, that of the first."""
        return self.uses[0].rule.weight(self.uses[0].module)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are the weight: one, or several on the same memory."""
        found = {id(weight): weight for weight in (u.rule.weight(u.module) for u in self.uses)}
        return list(found.values())

    def matrix(self, view: KernelView = "channel") -> Tensor:
        """The weight as a matrix (out, in), detached."""
        return self.uses[0].rule.matrix(self.uses[0].module, view).detach()

    def check_shape(self, decomposer: Decomposer) -> None:
        """Raise `Unfit` where a method does not fit the shape of the weight."""
        self._seen_by(decomposer).check_shape(self.matrix(decomposer.kernel_view()))

    def decompose(self, decomposer: Decomposer, norm: Norm) -> Factorization:
        """The factorization of the weight by a method, in the view that the method asks for.

        Args:
            decomposer: one that fits the shape of the weight, as `check_shape` says.
            norm: of a kind that the method knows.

        Raises:
            ValueError: as `Decomposer.approximate`; a norm of another shape.
        """
        weight = self.matrix(decomposer.kernel_view())
        norm.check(weight)
        return self._seen_by(decomposer).approximate(weight, norm)

    def _seen_by(self, decomposer: Decomposer) -> Decomposer:
        return decomposer.for_kernel(self.uses[0].rule.kernel_size(self.uses[0].module))


def find_sites(model: nn.Module) -> list[Site]:
    """The weights of a model that can be replaced; see `find_weights`."""
    return find_weights(model)[0]


def find_weights(model: nn.Module) -> tuple[list[Site], list[tuple[str, str]]]:
    """The weights of a model that can be replaced, and (name, reason) of all other matrices.

    In the order of the modules; tied ones once. Modules are tied that own one parameter, or
    parameters that are the same memory. A weight cannot be replaced that is also used by a module
    that no rule knows, that shares its memory with another tensor in another layout, or that
    something else of the model holds.

    Raises:
        ValueError: modules that share a weight read it as matrices of different shape.
    """
    apart, held = overlaps(model), held_weights(model)
    sites = _sites(model, apart.keys() | held.keys())
    return sites, _why_not(model, sites, apart, held)


def _sites(model: nn.Module, left: Collection[Hashable]) -> list[Site]:
    users: dict[Hashable, set[int]] = {}  # Of each memory, the modules that own it.
    uses: dict[Hashable, list[Use]] = {}
    order: list[Hashable] = []
    for name, module in model.named_modules():
        rule = rule_for(module)
        for parameter in module.parameters(recurse=False):
            users.setdefault(identity(parameter), set()).add(id(module))
        if rule is not None:
            order.append(identity(rule.weight(module)))
            uses.setdefault(order[-1], []).append(Use(name, rule, module))
    sites = [
        Site(tuple(group), weight == order[0], weight == order[-1])
        for weight, group in uses.items()
        if users[weight] == {id(use.module) for use in group} and weight not in left
    ]
    for site in sites:
        shapes = {
            use.name: tuple(use.rule.matrix(use.module, "channel").shape) for use in site.uses
        }
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"modules that share one weight read it as different matrices: {shapes}; untie "
                "them before compressing"
            )
    return sites


def overlaps(model: nn.Module) -> dict[Hashable, list[str]]:
    """Of each memory that shares elements with other tensors in another layout, their names."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    return {identity(tensors[name]): others for name, others in overlapping(tensors).items()}


def _why_not(
    model: nn.Module,
    sites: Sequence[Site],
    apart: Mapping[Hashable, Sequence[str]],
    held: Mapping[Hashable, str],
) -> list[tuple[str, str]]:
    """(name, reason) of the matrices that no site can replace, so that none is left out silently.

    Args:
        sites: of the model, those that can be replaced.
        apart, held: as `overlaps` and `held_weights` give them.
    """
    known = {identity(site.weight) for site in sites}
    reasons = []
    for name, parameter in model.named_parameters():
        weight = identity(parameter)
        if parameter.ndim < 2 or weight in known:
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        reason = why_no_rule(module)
        if weight in apart:
            reason = f"shares its memory with {', '.join(apart[weight])} in another layout"
        elif weight in held and rule_for(module) is not None:
            reason = f"'{held[weight]}' holds it too, and would run it as it is"
        reasons.append((name, reason))
    return reasons + _compressed(model)


def _compressed(model: nn.Module) -> list[tuple[str, str]]:
    """(name, reason) of the weights that are compressed already, into no matrix of parameters."""
    forms = {n: m.factorization for n, m in model.named_modules() if isinstance(m, FactorizedLayer)}
    return [
        (
            f"{name}.factorization" if name else "factorization",
            f"is compressed already, to {form.describe()}: compress the model from before instead "
            "(for an adapter over such a weight, by its `base`), or `lowrank.plain_model` of this "
            "one",
        )
        for name, form in forms.items()
        if not any(parameter.ndim > 1 for parameter in form.parameters())
    ]


def stand_in(use: Use, old: nn.Module, form: Factorization, view: KernelView) -> nn.Module:
    """The module that runs a factorization in the place of `old`, in its mode and with its hooks.

    What others set on the instance, such as a scale that their code reads, is there too.

    Args:
        use: of `old`, or of the module of which it is a copy.
    """
    new = use.rule.build(old, form, view).train(old.training)
    for name in HOOKS:
        setattr(new, name, getattr(old, name))
    vars(new).update((k, v) for k, v in vars(old).items() if not hasattr(new, k))
    return new


class Places:
    """The places of all modules of a model, found once for many replacements in it.

    Attributes:
        model: the root.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # By the identity of a module; it may stand in several places.
        self._of: dict[int, list[tuple[nn.Module, str]]] = {}
        self._add(model)

    def _add(self, model: nn.Module) -> None:
        for parent in model.modules():
            for name, child in parent._modules.items():
                self._of.setdefault(id(child), []).append((parent, name))

    def replace(self, old: nn.Module, new: nn.Module) -> None:
        """Put `new` wherever `old` stands, in place."""
        if self.model is old:
            self.model = new
        for parent, name in self._of.pop(id(old), ()):
            if parent._modules[name] is old:
                setattr(parent, name, new)
                self._of.setdefault(id(new), []).append((parent, name))
        self._add(new)


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put `new` wherever `old` stands in `model`, in place; returns the root."""
    places = Places(model)
    places.replace(old, new)
    return places.model


@contextmanager
def naming(site: Site) -> Iterator[None]:
    """Put the layer's name before the text of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"layer '{site.name}': {error}") from error
