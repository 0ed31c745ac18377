"""Entropy coding of trained factorizations: Deep Compression's third step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from lowrank.compression.report import Compressed
from lowrank.factorizations import Codebook, Factorization, Sparse, recoded
from lowrank.factorizations.gap_index import GapIndex
from lowrank.factorizations.packing import check_bits
from lowrank.factorizations.symbol_coding import CODINGS, coding_named
from lowrank.model.factorized import FactorizedLayer
from lowrank.recovery.recovery import Progress, Recovery, silent
from lowrank.tasks import Task
from lowrank.tasks.task import SplitName


@dataclass(frozen=True)
class Recode(Recovery):
    """Codes of codebooks and positions of kept weights in fewer bytes; the model stays the same.

    The last step, since what is trained after it may no longer suit its code; see `EntropyCoding`,
    which does the same before a recovery. For each layer of a codebook over survivors the report
    says what each coding of the same weights takes (see `coded_sizes`).

    Args:
        coding: ``"huffman"``, ``"ans"`` or ``"fixed"`` width; see `EntropyCoding`.
        gap_bits: of the gaps between positions, 1..8; see `GapIndex`.

    Raises:
        ValueError: a coding or bits that do not exist; from `recover`, a compressed model with
            neither codebooks nor sparse matrices.

    Source: Han, Mao & Dally, ICLR 2016, sections 2 (gaps) and 4 (Huffman code).
    """

    coding: str = "huffman"
    gap_bits: int = 5

    def __post_init__(self) -> None:
        coding_named(self.coding)
        check_bits(self.gap_bits)

    @property
    def changes_dense(self) -> bool:
        return False

    @property
    def tunes(self) -> bool:
        return False

    @property
    def changes_forms(self) -> bool:
        return True

    @property
    def learns_from(self) -> SplitName | None:
        return None

    def check(self, network: nn.Module) -> None:
        # Only the compressed model has what is coded.
        pass

    def check_forms(self, model: nn.Module) -> None:
        layers = [m for m in model.modules() if isinstance(m, FactorizedLayer)]
        parts = [part for layer in layers for part in layer.factorization.modules()]
        if layers and not any(isinstance(part, Codebook | Sparse) for part in parts):
            raise ValueError("the model has neither codebooks nor pruned weights: nothing to code")

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        return {"coded": self._recode(model)}

    def change(
        self, compressed: Compressed, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        sizes = self._recode(compressed.model)
        for layer in compressed.layers:
            layer.coded = sizes.get(layer.name, {})
        return {}

    def _recode(self, model: nn.Module) -> dict[str, dict[str, int]]:
        """Code the layers, in place, and say by name what each coding of them takes."""
        self.check_forms(model)
        layers = {n: m for n, m in model.named_modules() if isinstance(m, FactorizedLayer)}
        found, made = {}, dict[int, Factorization]()
        for name, layer in layers.items():
            form = layer.factorization
            if id(form) not in made:
                sizes = coded_sizes(form, self.gap_bits)
                found |= {name: sizes} if sizes else {}
                made[id(form)] = recoded(form, self.coding, self.gap_bits)
            layer.factorization = made[id(form)]
        return found


def coded_sizes(form: Factorization, gap_bits: int) -> dict[str, int]:
    """The sizes of a sparse matrix with a codebook, by each coding; empty for all other forms.

    Returns:
        ``kept`` weights and ``entries`` of the index (gaps and paddings), their numbers; and for
        each coding, such as ``huffman``, ``huffman_code_bytes`` and ``huffman_index_bytes``
        without their tables, and ``huffman_bytes`` of all that is stored.
    """
    if not isinstance(form, Sparse) or not isinstance(form.values, Codebook):
        return {}
    sizes = {"kept": form.params}
    for coding in CODINGS:
        values, index = form.values.recoded(coding), form.with_gaps(gap_bits, coding)
        assert isinstance(index.index_form, GapIndex)
        sizes["entries"] = index.index_form.entries
        sizes[f"{coding}_code_bytes"] = values.codes.nbytes
        sizes[f"{coding}_index_bytes"] = index.get_buffer("gaps").nbytes
        sizes[f"{coding}_bytes"] = values.nbytes + index.nbytes - form.values.nbytes
    return sizes
