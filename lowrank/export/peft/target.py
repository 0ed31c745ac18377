"""The layers of a model that an adapter of PEFT can be beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from lowrank.export.peft.attention import owner_of, path_of, times_of
from lowrank.export.peft.kinds import Kind, kind_of
from lowrank.factorizations import Dense, Factorization
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.layers import Rule, rule_for
from lowrank.model.sites import Use, find_weights, replace_module, stand_in


@dataclass(frozen=True)
class HostLayer:
    """A layer by its path in the model, dense or compressed.

    Attributes:
        rule: of a dense layer; None of a compressed one.
        owner: by whose name PEFT knows its adapter.
        refusal: why it cannot be adapted; empty if it can.
    """

    name: str
    module: nn.Module
    rule: Rule | None
    owner: str
    refusal: str = ""

    @property
    def path(self) -> str:
        """Where in PEFT's model its adapter is."""
        return path_of(self.name, self.owner)

    @property
    def times(self) -> int:
        """How many times its adapter counts."""
        return times_of(self.name, self.owner)

    def kind(self, kinds: Mapping[str, Kind]) -> Kind:
        """The layout of its adapter.

        Args:
            kinds: those that the type of adapter has.

        Raises:
            ValueError: it cannot have one.
        """
        if self.refusal:
            raise ValueError(self.refusal)
        return kind_of(self.module, self.rule, kinds, self.is_inside)

    @property
    def is_inside(self) -> bool:
        """Whether it is the projection of an attention that is adapted with it."""
        return self.owner != self.name

    @property
    def stored(self) -> Tensor:
        """The weight in the layer's own layout."""
        if self.rule is None:
            return self.module.factorization.to_dense()  # type: ignore[operator, union-attr]
        return self.rule.weight(self.module)

    def matrix(self) -> Tensor:
        """The weight as a matrix (out, in), detached."""
        if self.rule is None:
            return self.stored.detach()
        return self.rule.matrix(self.module, "channel").detach()

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        form = self.module.factorization if self.rule is None else self.matrix()
        out, inner = form.shape  # type: ignore[misc, union-attr]
        return int(out), int(inner)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weight."""
        if self.rule is None:
            return self.module.factorization.dtype  # type: ignore[return-value, union-attr]
        return self.stored.dtype

    @property
    def device(self) -> torch.device:
        """Of the weight, which is not multiplied out for it."""
        if self.rule is None:
            form = self.module.factorization
            return next(chain(form.parameters(), form.buffers())).device  # type: ignore[union-attr, operator]
        return self.stored.device

    def base(self) -> Factorization:
        """The form of the frozen weight; a weight that is tied stays tied."""
        if isinstance(self.module, FactorizedLayer):
            return self.module.factorization.requires_grad_(False)
        matrix = self.matrix()
        form = Dense(matrix)
        weight = self.stored
        if isinstance(weight, nn.Parameter) and matrix.is_set_to(weight.detach()):
            form.weight = weight
        return form.requires_grad_(False)

    def replaced(self, model: nn.Module, form: Factorization) -> nn.Module:
        """The model with this layer's weight in another form, in place."""
        if isinstance(self.module, FactorizedLayer):
            self.module.factorization = form.train(self.module.training)
            return model
        assert self.rule is not None
        new = stand_in(Use(self.name, self.rule, self.module), self.module, form, "channel")
        return replace_module(model, self.module, new)


def targets_in(model: nn.Module) -> dict[str, HostLayer]:
    """The layers that hold a weight, by name, those included that no adapter can be beside."""
    sites, others = find_weights(model)
    usable = {use.name for site in sites for use in site.uses}
    reasons = {name.rpartition(".")[0]: reason for name, reason in others}
    found = {}
    for name, module in model.named_modules():
        rule = rule_for(module)
        if rule is not None:
            reason = "" if name in usable else reasons.get(name, "its weight cannot be replaced")
            found[name] = HostLayer(name, module, rule, owner_of(model, name), reason)
        elif isinstance(module, FactorizedLayer):
            found[name] = HostLayer(name, module, None, owner_of(model, name))
    return found


def outside(model: nn.Module) -> list[str]:
    """The names of all modules but those that factorizations are made of."""
    found: list[str] = []
    inner: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if inner and name.startswith(inner):
            continue
        found.append(name)
        if isinstance(module, FactorizedLayer):
            inner += (f"{name}.factorization" if name else "factorization",)
    return found
