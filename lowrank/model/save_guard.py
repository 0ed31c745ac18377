"""Guard against other save methods, which would write a compressed model in a wrong form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from torch import nn

from lowrank.model.factorized import FactorizedLayer

# The names of save methods in libraries of the Hugging Face hub.
WAYS = ("save_pretrained", "push_to_hub")


@dataclass(frozen=True)
class Refusal:
    """Replacement of a save method; calling it raises ValueError."""

    way: str

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(
            f"{self.way} does not know factorizations: from what it writes, from_pretrained makes "
            "layers of random numbers. Save with lowrank.save(model, path), and load "
            "with lowrank.load(path, dense)"
        )


def refuse_other_files(model: nn.Module) -> None:
    """Let those modules of a compressed model that have other ways to be saved refuse them."""
    for module in model.modules():
        ways = [way for way in WAYS if callable(getattr(module, way, None))]
        if ways and any(isinstance(part, FactorizedLayer) for part in module.modules()):
            for way in ways:
                setattr(module, way, Refusal(way))
