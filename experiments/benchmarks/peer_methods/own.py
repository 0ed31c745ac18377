"""lowrank's side of the comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experiments.benchmarks.peer_methods.method import Kept, Method, Outcome, Subject
from lowrank.calibration import IdentityNorms, NormProvider
from lowrank.compression.compress import compress
from lowrank.decomposers import Decomposer
from lowrank.model.factorized import FactorizedLayer
from lowrank.model.select import Select
from lowrank.numerics.memo import MEMO

BATCH = 8


@dataclass(frozen=True)
class Own(Method):
    """A decomposer in a norm.

    Args:
        recipe: the number of a layer's inputs → its decomposer.
        norm: what calibration says about each layer; nothing by default.
    """

    recipe: Callable[[int], Decomposer]
    norm: NormProvider = IdentityNorms()

    @property
    def name(self) -> str:
        return "lowrank"

    def compress(self, subject: Subject) -> Outcome:
        MEMO.clear()  # Each run pays for its calibration and kernels, as the peers' do.
        result = compress(
            subject.model,
            {name: self.recipe(weight.shape[1]) for name, weight in subject.weights().items()},
            where=Select(include=subject.layers),
            norm=self.norm,
            data=list(subject.tokens.split(BATCH)) if self.norm.needs_data else None,
        )
        kept = {}
        for report in result.layers:
            layer = result.model.get_submodule(report.name)
            assert isinstance(layer, FactorizedLayer)
            bits = 8 * report.bytes
            kept[report.name] = Kept(layer.factorization.to_dense().detach().float(), bits, bits)
        return Outcome(kept)
