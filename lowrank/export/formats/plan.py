"""The plan of an export: what becomes of each compressed layer, and what the files will weigh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lowrank.model.contents import names_of


@dataclass(frozen=True)
class PlannedLayer:
    """The place of one compressed layer in the exported files.

    Attributes:
        name: of the layer; of layers that share a factorization, the first.
        form: of its weight in the model, such as ``Quantized 64→64, 4 bits, group 64``.
        stored: what the files have of it, such as ``pack-quantized, 4 bits, group 64``.
        nbytes: of its weight in the files.
        why_dense: why it is multiplied out; empty where it keeps its compressed form.
    """

    name: str
    form: str
    stored: str
    nbytes: int
    why_dense: str = ""


@dataclass(frozen=True)
class ExportPlan:
    """What an export writes.

    Attributes:
        format: its name.
        layers: the compressed layers of the model.
        rest_bytes: of all else: layers that are not compressed, biases, buffers.
        notes: what a reader should know besides.
    """

    format: str
    layers: tuple[PlannedLayer, ...]
    rest_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers in the files, without their headers."""
        return sum(layer.nbytes for layer in self.layers) + self.rest_bytes

    @property
    def multiplied_out(self) -> list[PlannedLayer]:
        """The layers that lose their compressed form."""
        return [layer for layer in self.layers if layer.why_dense]

    def describe(self) -> str:
        """A few lines for people."""
        kept = len(self.layers) - len(self.multiplied_out)
        lines = [
            f"{self.format}: {self.nbytes:,} bytes; {kept} of {len(self.layers)} compressed layers "
            "keep their form"
        ]
        kinds: dict[tuple[str, str], list[str]] = {}
        for layer in self.layers:
            kinds.setdefault((layer.stored, layer.why_dense), []).append(layer.name)
        for (stored, why), names in kinds.items():
            reason = f", multiplied out: {why}" if why else ""
            lines.append(f"  {names_of(names)}: {stored}{reason}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def to_frame(self) -> Any:
        """One row for each layer, as a pandas frame.

        Raises:
            MissingExtra: pandas is not installed.
        """
        from lowrank.files.extras import need

        need("a data frame", "pandas")
        import pandas as pd

        columns = ["name", "form", "stored", "nbytes", "why_dense"]
        rows = [[getattr(layer, column) for column in columns] for layer in self.layers]
        return pd.DataFrame(rows, columns=columns)


def check_multiplied_out(plan: ExportPlan, allowed: bool) -> None:
    """Raise ValueError if layers lose their form without leave.

    Args:
        allowed: whether they may.
    """
    lost = plan.multiplied_out
    if not lost or allowed:
        return
    raise ValueError(
        f"{plan.format} cannot hold {_reasons(lost)}. Give multiply_out=True (on the command line "
        f"--multiply-out) to write these layers as dense matrices, {plan.nbytes:,} bytes in all, "
        "or choose another format"
    )


def _reasons(layers: Iterable[PlannedLayer]) -> str:
    reasons: dict[str, list[str]] = {}
    for layer in layers:
        reasons.setdefault(layer.why_dense, []).append(layer.name)
    return "; ".join(f"{names_of(names)}, because {why}" for why, names in reasons.items())
