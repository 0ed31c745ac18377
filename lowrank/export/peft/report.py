"""What was written into a folder of PEFT, and what a reader should know of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from lowrank.export.formats.plan import ExportPlan
from lowrank.export.peft.base import module_of
from lowrank.export.peft.layer import AdaptedLayer
from lowrank.factorizations.adapted import taken_apart
from lowrank.model.contents import names_of
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.layers import rule_for
from lowrank.model.shared_memory import identity
from lowrank.numerics.storage import stored_bytes


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: with the config and the tensors of the adapter.
        kind: the type of the adapter in PEFT, LORA or VERA.
        base: the folder of the base that belongs to it; None if it is the base that was given.
        ranks: of each adapted layer, as PEFT counts them.
        nbytes: of the tensors of the adapter.
        model_bytes: of the same in the model, where shared factors count once and may have few
            bits.
        base_bytes: of the files of the base that was written.
        saved: the modules that differ from the base and are written whole.
        notes: what a reader should know, by layer.
        base_plan: what the base keeps of its forms; None if it is dense.
    """

    folder: Path
    kind: str
    base: Path | None
    ranks: dict[str, int]
    nbytes: int
    model_bytes: int
    base_bytes: int = 0
    saved: tuple[str, ...] = ()
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    base_plan: ExportPlan | None = None

    def describe(self) -> str:
        """A few lines for people."""
        ranks = sorted(set(self.ranks.values()))
        lines = [
            f"{self.folder}: {self.kind} of {len(self.ranks)} layers, ranks {ranks}, {self.nbytes} "
            f"bytes, which take {self.model_bytes} in the model",
            f"its base: {self.base} of {self.base_bytes} bytes" if self.base else "its base: given",
        ]
        if self.base_plan is not None:
            lines.append(self.base_plan.describe())
        if self.saved:
            lines.append(f"saved whole: {', '.join(self.saved)}")
        layers: dict[str, list[str]] = {}
        for name, notes in self.notes.items():
            for note in notes:
                layers.setdefault(note, []).append(name)
        return "\n".join(lines + [f"{names_of(names)}: {n}" for n, names in layers.items()])


def model_bytes(layers: Iterable[FactorizedLayer]) -> int:
    """Bytes of the adapters in the model, each tensor once."""
    parts = {id(layer.factorization): taken_apart(layer.factorization) for layer in layers}
    terms = [term for part in parts.values() for term in part.terms]
    tensors = [t for term in terms for t in term.state_dict(keep_vars=True).values()]
    tensors += [part.lengths for part in parts.values() if part.lengths is not None]
    return sum(map(stored_bytes, {id(tensor): tensor for tensor in tensors}.values()))


def notes_of(base: nn.Module, layers: Sequence[AdaptedLayer]) -> dict[str, tuple[str, ...]]:
    """What a reader of the report should know, by layer."""
    tied = _tied(base, [layer.name for layer in layers])
    notes: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        own = layer.notes
        if layer.kind.times(layer.module) > 1:
            own += ("its groups have zeros for the channels of others, and PEFT cannot merge it",)
        if layer.name in tied:
            own += (
                f"it shares its weight with '{tied[layer.name]}', and both adapters are written: "
                "PEFT would merge both into the one weight",
            )
        if own:
            notes[layer.name] = own
    return notes


def _tied(base: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """Of adapted layers that share a weight, the name of another one."""
    names: dict[Hashable, list[str]] = {}
    for name in layers:
        module = module_of(base, name)
        rule = rule_for(module)
        assert rule is not None
        names.setdefault(identity(rule.weight(module)), []).append(name)
    return {
        name: next(other for other in group if other != name)
        for group in names.values()
        if len(group) > 1
        for name in group
    }
