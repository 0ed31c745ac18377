"""What the config of each type of adapter says of ranks and scales.

An `AdapterType` knows one. A new type is a line in `TYPES`, and one in `LAYOUTS`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from lowrank.export.peft.config import CONFIG
from lowrank.export.peft.matching import Patterns, check_pattern, compiled, exactly
from lowrank.files.fields import Fields

# More patterns than any config has.
MOST_PATTERNS = 10_000


class AdapterType(ABC):
    """One type of adapter.

    Attributes:
        rank, dropout: the names of the fields.
        biases: what ``bias`` is where the biases of the adapted layers are in the file.
        idle: fields that only training reads.
        unknown: fields that others read, and with which PEFT has no adapter of this type.
    """

    rank: ClassVar[str] = "r"
    dropout: ClassVar[str] = "lora_dropout"
    biases: ClassVar[str] = "lora_only"
    idle: ClassVar[frozenset[str]] = frozenset()
    unknown: ClassVar[frozenset[str]] = frozenset()

    def alpha(self, fields: Fields) -> float:
        """``lora_alpha``."""
        return alpha_in(fields, "lora_alpha")

    def ranks(self, fields: Fields) -> Patterns:
        """Those of layers that have another than the others."""
        return ()

    def alphas(self, fields: Fields) -> Patterns:
        """Those of layers that have another than the others."""
        return ()

    @abstractmethod
    def scale(self, alpha: float, rank: int, first: int, is_rslora: bool) -> float:
        """The factor of the adapter of a layer.

        Args:
            alpha, rank: of the layer.
            first: the rank that the config gives all layers.
            is_rslora: whether ``use_rslora`` is on.
        """


class LoraType(AdapterType):
    """LoRA and DoRA: alpha over the rank, or over its root."""

    def ranks(self, fields: Fields) -> Patterns:
        return _patterns(fields, "rank_pattern", lambda own, key: own.integer(key, least=1))

    def alphas(self, fields: Fields) -> Patterns:
        return _patterns(fields, "alpha_pattern", alpha_in)

    def scale(self, alpha: float, rank: int, first: int, is_rslora: bool) -> float:
        return alpha / (math.sqrt(rank) if is_rslora else rank)


class VeraType(AdapterType):
    """VeRA, whose scales are trained."""

    dropout = "vera_dropout"
    biases = "vera_only"

    def alpha(self, fields: Fields) -> float:
        return 1.0

    def scale(self, alpha: float, rank: int, first: int, is_rslora: bool) -> float:
        return 1.0


class AdaloraType(AdapterType):
    """AdaLoRA: alpha over the rank from before any was taken out, of which masks say what is left.

    PEFT knows no other alphas for single layers here, no rsLoRA and no DoRA.
    """

    rank = "init_r"
    idle = frozenset(
        {
            *("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2"),
            *("orth_reg_weight", "total_step"),
        }
    )
    unknown = frozenset({"use_dora"})
    # What ends the names in ``rank_pattern``, and what PEFT adds to a rank before it divides by it.
    ends = (".lora_E", ".lora_E.default")
    least = 1e-5

    def ranks(self, fields: Fields) -> Patterns:
        name, first = "rank_pattern", fields.integer(self.rank, least=1)
        own = _own(fields, name)
        found = {}
        for key in own:
            layer = next((key.removesuffix(end) for end in self.ends if key.endswith(end)), None)
            if layer is None:
                raise ValueError(f"{CONFIG}.{name} has '{key:.200}', and names end with lora_E")
            mask = own.sequence(key)
            if len(mask) != first or not all(isinstance(one, bool) for one in mask):
                own.refuse(key, mask, f"{first} times true or false, as {self.rank} says")
            found[exactly(layer)] = sum(mask)
        return compiled(found)

    def scale(self, alpha: float, rank: int, first: int, is_rslora: bool) -> float:
        # As PEFT does: an alpha that is not above 0 means the rank, and the sum is one of float32.
        share = float(torch.tensor(float(first)) + self.least)
        return (alpha if alpha > 0 else rank) / share


TYPES: dict[str, AdapterType] = {"LORA": LoraType(), "VERA": VeraType(), "ADALORA": AdaloraType()}


def alpha_in(fields: Fields, name: str) -> float:
    """An alpha.

    Raises:
        ValueError: it is 0.
    """
    value = fields.number(name)
    if value == 0:
        fields.refuse(name, value, "another number: at 0 the adapter does nothing")
    return value


def _own(fields: Fields, name: str) -> Fields:
    own = fields.fields(name) if fields.get(name) else Fields({}, f"{fields.place}.{name}")
    if len(own) > MOST_PATTERNS:
        raise ValueError(f"{own.place} has {len(own)} patterns, and no config has")
    return own


def _patterns(fields: Fields, name: str, read: Callable[[Fields, str], Any]) -> Patterns:
    own = _own(fields, name)
    for key in own:
        check_pattern(own.place, key)
    return compiled({key: read(own, key) for key in own})
