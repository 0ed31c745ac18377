"""The execution plan of a model: the kernel of each layer and the trials behind the choice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lowrank.execution.kernel import Accuracy
from lowrank.files.extras import need
from lowrank.files.fields import Fields, parse
from lowrank.files.from_json import built

FACTORED = "factored"
# Kernels of one dense matrix, by which every weight can run.
DENSE_KERNELS = ("dense", "columns", "transposed", "packed")


@dataclass(frozen=True)
class Trial:
    """The measurement of one kernel for one layer or leaf.

    Attributes:
        seconds: median of one pass over the layer's inputs.
        speedup: over the dense kernel, median of neighbouring blocks; `speedup_low` and
            `speedup_high` are its lower and upper bounds, each with a confidence of 95 %.
        error: relative error of the outputs against those of the factorization as it runs itself.
        packed_bytes: memory that it holds besides what is stored.
        made_bytes: of the largest part of the matrix that it makes anew in every pass.
        read_bytes: of the weights, in the form in which every pass reads them; None if not known.
        refused: why it could not run, or was not taken for its error; empty otherwise.
    """

    kernel: str
    accuracy: Accuracy = "exact"
    seconds: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    error: float | None = None
    packed_bytes: int | None = None
    made_bytes: int | None = None
    read_bytes: int | None = None
    refused: str = ""

    @property
    def bytes_per_second(self) -> float | None:
        """Bytes of weights that it reads in a second; None if not known."""
        known = self.read_bytes is not None and self.seconds
        return self.read_bytes / self.seconds if known else None  # type: ignore[operator]


@dataclass(frozen=True)
class LayerPlan:
    """The plan of one layer.

    Attributes:
        name: of the layer in the model.
        factorization: its description, for people and to check that a plan fits a model.
        inputs: shape of the inputs for which this was measured.
        kernel: by name; "factored" where the leaves run one after the other, by `parts`.
        parts: leaf → kernel, by the leaf's path in the factorization.
        accuracy: that of the kernel; of parts, that which was allowed to them.
        error, speedup, packed_bytes, made_bytes: those of the chosen kernel; see `Trial`.
        trials: everything that was measured, the dense kernel first.
    """

    name: str
    factorization: str
    inputs: tuple[int, ...]
    kernel: str
    parts: dict[str, str] = field(default_factory=dict)
    accuracy: Accuracy = "exact"
    error: float = 0.0
    speedup: float = 1.0
    packed_bytes: int = 0
    made_bytes: int = 0
    trials: tuple[Trial, ...] = ()

    @property
    def speedup_over_best_dense(self) -> float:
        """Speed-up over the fastest way to multiply the whole matrix, which `speedup` is not.

        `nn.Linear` is not always that: a dense layer, too, would gain from another layout.
        """
        dense = [t.speedup for t in self.trials if t.kernel in DENSE_KERNELS and t.speedup]
        return self.speedup / max(dense, default=1.0)

    def is_of(self, trial: Trial) -> bool:
        """Whether this is the kernel that was chosen."""
        return (trial.kernel, trial.accuracy) == (self.kernel, self.accuracy)

    def describe(self) -> str:
        """Such as ``csr`` or ``factored(columns, transposed)``."""
        return f"{self.kernel}({', '.join(self.parts.values())})" if self.parts else self.kernel


@dataclass(frozen=True)
class ExecutionPlan:
    """The plan of each layer of a model; `to_json` and `from_json` keep it in a file or a record.

    Attributes:
        accuracy: the loosest that was allowed to the kernels.
        threads, device, machine: where it was measured.
        bandwidth: bytes a second that the device reads from memory with these threads (see
            `read_bandwidth`), the limit of a pass whose weights are in no cache; None in plans that
            were made before it was measured.
        layers: in the order of the model.
        skipped: (name, reason) of the factorized layers that stay as they are.
    """

    accuracy: Accuracy
    threads: int
    device: str
    machine: dict[str, str]
    layers: tuple[LayerPlan, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    bandwidth: float | None = None

    @property
    def kernels(self) -> dict[str, str]:
        """Layer → kernel."""
        return {layer.name: layer.describe() for layer in self.layers}

    @property
    def runs_dense(self) -> bool:
        """Whether every layer multiplies its whole matrix, as it did before it was compressed."""
        return all(layer.kernel in DENSE_KERNELS for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        """Memory that the kernels hold besides the stored model; what is shared counts twice."""
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def error(self) -> float:
        """The largest relative error of any layer's outputs on its inputs."""
        return max((layer.error for layer in self.layers), default=0.0)

    def summary(self) -> str:
        """Such as ``2 × factored(columns, dense), dense``; empty without layers."""
        counts = Counter(self.kernels.values())
        return ", ".join(f"{n} × {k}" if n > 1 else k for k, n in counts.items())

    def to_frame(self) -> Any:
        """One row for each trial of each layer, as a pandas DataFrame.

        `gb_per_second` is what the kernel reads of the weights, in 10⁹ bytes a second, and
        `of_bandwidth` its share of the machine's, above 1 where weights stay in a cache.

        Raises:
            MissingExtra: pandas is not installed; it is in the extra ``reports``.
        """
        need("a data frame", "pandas")
        import pandas as pd

        rows = [
            {
                "name": layer.name,
                "chosen": layer.is_of(trial),
                **asdict(trial),
                **self._speed(trial),
            }
            for layer in self.layers
            for trial in layer.trials
        ]
        return pd.DataFrame(rows)

    def _speed(self, trial: Trial) -> dict[str, float | None]:
        speed = trial.bytes_per_second
        share = speed / self.bandwidth if speed and self.bandwidth else None
        return {"gb_per_second": speed and speed / 1e9, "of_bandwidth": share}

    def to_json(self) -> str:
        """As text that `from_json` reads."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> ExecutionPlan:
        """The plan of `to_json`, or of the mapping in a record.

        Raises:
            ValueError: the text is no plan.
        """
        try:
            value = parse(text, "the text") if isinstance(text, str) else text
            plan = built(cls, Fields(value, "plan"))
            _check(plan)
            return plan
        except ValueError as error:
            raise ValueError(
                f"this is no plan of optimize_for ({error}): give what ExecutionPlan.to_json wrote "
                'or an entry of "execution" in a record'
            ) from error


def _check(plan: ExecutionPlan) -> None:
    """Raise ValueError for a plan that no search could have found."""
    names = Counter(layer.name for layer in plan.layers)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"it has the layers {twice[:5]} twice")
    for layer in plan.layers:
        for found in (layer, *layer.trials):
            numbers = [v for v in vars(found).values() if isinstance(v, int | float)]
            numbers += [*layer.inputs, plan.bandwidth or 0]
            if min(numbers) < 0 or plan.threads < 1:
                raise ValueError(f"times, errors and sizes of '{layer.name}' are not all above 0")
