"""Light tuning of scales, norms, biases and codes toward the outputs of the dense model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from lowrank.calibration.piece import examples_of
from lowrank.calibration.task_pieces import task_pieces
from lowrank.factorizations import Factorization, Tunable
from lowrank.factorizations.adapted import frozen_parts
from lowrank.model.forward import evaluating
from lowrank.numerics.checks import (
    check_integer,
    check_number,
    check_one_of,
    check_positive,
)
from lowrank.numerics.memo import model_fingerprint
from lowrank.recovery.recovery import Progress, Recovery, silent
from lowrank.recovery.tuned import Pair, Step, Tuned
from lowrank.recovery.tuning import Tuning
from lowrank.tasks import Task
from lowrank.tasks.task import SplitName
from lowrank.tasks.training.loop import known_by
from lowrank.tasks.training.resuming import next_checkpoint

Part = Literal["scales", "codes", "norms", "biases", "values"]
PARTS: tuple[Part, ...] = get_args(Part)
SOURCES = ("calibration", "train")
LEARNING_RATE, CODE_RATE = 0.003, 0.01


@dataclass(frozen=True)
class Tune(Recovery):
    """Gradient steps on scales, norms, biases and codes toward the outputs of the dense model.

    Adam minimises the task's `distance`, such as KL(dense ‖ model), which uses no labels. If the
    task pads, examples run without padding, those of one length together. The model runs in
    evaluation mode: no dropout, fixed statistics. After each step every number is rounded to its
    stored precision, and every code to a level. So the number of bytes stays the same, and the
    tuned model is exactly the stored one.

    Some examples are held out. Of the untuned state and the states after each epoch, the one
    nearest to the dense model on these examples is kept, so on them tuning never does harm. The
    dense model is the target and stays as it is. Inside `lowrank.tasks.resumable` a tuning goes on
    where a killed process left it.

    Args:
        epochs: passes over the examples, ≥ 1; the learning rate falls as a cosine to 0.
        learning_rate: relative to the root mean square of a tensor's values: 0.01 moves a scale by
            about 1 % in a step.
        batch_size: examples per step, ≥ 1.
        code_rate: about how many levels a code moves in a step if all gradients have one sign. All
            steps together should add up to a level or more; otherwise few codes change.
        parts: any of ``scales`` (scales and real zero points of quantized leaves), ``codes`` (of
            evenly spaced levels: rounding learnt by straight-through gradients, which needs more
            examples than the other parts), ``norms`` (gains of normalisations: all vectors outside
            of factorizations that are no biases), ``biases``, and ``values`` (factors, survivors
            and centroids of the factorizations, and weights kept dense, unless they are stored in
            16 bits). Weights that were not selected for compression are never trained, and neither
            is the base of an adapter.
        source: the split of the examples, ``calibration`` or ``train``.
        examples: their number, ≥ 2, held-out ones included, drawn with the task's seed; all if not
            given.
        held_out: share of the examples that is held out, in (0, 1).

    Raises:
        ValueError: an option outside its range; from `recover`, more examples asked for than there
            are, or nothing to tune.
        FloatingPointError: from `recover`, a distance that is NaN or infinite.

    Source: distillation into scales and norms after quantization: e.g. Tseng et al., ICML 2024
    (QuIP#, section 5) and Egiazarian et al., ICML 2024 (AQLM, section 3.4); straight-through
    gradients: Bengio, Léonard & Courville 2013, and without labels Liu et al. 2023 (LLM-QAT);
    relative steps: Shazeer & Stern, ICML 2018, section 8.
    """

    epochs: int = 8
    learning_rate: float = LEARNING_RATE
    code_rate: float = CODE_RATE
    batch_size: int = 8
    parts: Sequence[Part] = ("scales", "norms", "biases")
    source: Literal["calibration", "train"] = "calibration"
    examples: int | None = None
    held_out: float = 0.25

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, least=1)
        check_positive("learning_rate", self.learning_rate)
        check_positive("code_rate", self.code_rate)
        check_integer("batch_size", self.batch_size, least=1)
        check_one_of("source", self.source, SOURCES)
        check_number("held_out", self.held_out, "lie in (0, 1)", lambda x: 0 < x < 1)
        if self.examples is not None:
            check_integer("examples", self.examples, least=2)
        are_parts = isinstance(self.parts, Sequence) and not isinstance(self.parts, str)
        if not are_parts or not self.parts:
            raise ValueError(f"parts={self.parts!r} must be a list of some of {', '.join(PARTS)}")
        for part in self.parts:
            check_one_of("parts", part, PARTS)
        if "codes" not in self.parts and self.code_rate != CODE_RATE:
            raise ValueError(
                f"code_rate={self.code_rate} has no effect without codes in parts="
                f"{list(self.parts)}: leave it out, or add them"
            )
        if set(self.parts) == {"codes"} and self.learning_rate != LEARNING_RATE:
            raise ValueError(
                f"learning_rate={self.learning_rate} has no effect on parts=['codes'], which move "
                "by code_rate: leave it out, or add other parts"
            )

    @property
    def changes_dense(self) -> bool:
        return False

    @property
    def tunes(self) -> bool:
        return True

    @property
    def learns_from(self) -> SplitName | None:
        return self.source

    def check_data(self, task: Task) -> None:
        there = len(task.split(self.source))
        if self.examples is not None and self.examples > there:
            raise ValueError(
                f"examples={self.examples} are more than the {there} of the {self.source} split"
            )
        count = there if self.examples is None else self.examples
        batches = math.ceil(count / self.batch_size)
        if math.ceil(self.held_out * batches) == batches:
            raise ValueError(
                f"the {count} examples are {batches} batches of batch_size={self.batch_size}, "
                f"of which held_out={self.held_out} leaves none to learn from: lower one of them"
            )

    def check(self, network: nn.Module) -> None:
        # Only the compressed model has the numbers that are tuned.
        pass

    def recover(self, model: nn.Module, task: Task, progress: Progress = silent) -> dict[str, Any]:
        return self.recover_toward(model, task.model(), task, progress)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def recover_toward(
        self, model: nn.Module, dense: nn.Module, task: Task, progress: Progress = silent
    ) -> dict[str, Any]:
        self.check_data(task)
        pair = Pair(model, dense, task)
        learnt, held = self._examples(task)
        with ExitStack() as stack:
            stack.enter_context(evaluating(model, pair.dense))
            if all(pair.is_equal(piece.batch) for batch in held for piece in batch):
                return {"note": "the model gives what the dense one gives: not tuned"}
            # Before stand-ins take the places of buffers.
            checkpoint = next_checkpoint(lambda: self._made_for(pair))
            numbers = list(self._found(model))
            # Runs after all others: leaves drop the matrices that they computed from the stand-ins.
            stack.callback(model.eval)
            for tuned in numbers:
                stack.callback(tuned.settle)
            model.eval()  # Leaves cannot notice that their buffers were replaced.
            if not numbers:
                raise ValueError(
                    f"this model has none of parts={list(self.parts)} to be trained; what is "
                    "frozen, as the base of an adapter is, stays so"
                )
            rates = self.learning_rate, self.code_rate
            tuning = Tuning(pair, numbers, (learnt, held), self.epochs, rates)
            found = tuning.run(checkpoint, progress)
        return found | {
            "tuned_params": sum(tuned.master.numel() for tuned in numbers),
            "examples": sum(map(examples_of, learnt)),
            "held_out_examples": sum(map(examples_of, held)),
        }

    def _made_for(self, pair: Pair) -> dict[str, Any]:
        task = {"name": pair.task.name, "seed": pair.task.seed}
        task |= known_by(pair.task.split(self.source), self.batch_size, pair.task)
        models = {"model": model_fingerprint(pair.model), "dense": model_fingerprint(pair.dense)}
        return {"options": asdict(self), "task": task} | models

    def _examples(self, task: Task) -> tuple[list[Step], list[Step]]:
        """The batches to learn from and the held-out batches."""
        split = task.split(self.source)
        count = len(split) if self.examples is None else self.examples
        batches = list(task_pieces(task, split, self.batch_size, task.seed, count))
        held = math.ceil(self.held_out * len(batches))
        return batches[held:], batches[:held]

    def _found(self, model: nn.Module) -> Iterator[Tuned]:
        """The numbers to tune; stand-ins replace buffers in the model until they settle."""
        factorizations = [module for module in model.modules() if isinstance(module, Factorization)]
        inside = {id(p) for module in factorizations for p in module.parameters()}
        # Beside an adapter a base is frozen, though no flag of a buffer says so.
        bases = [base for module in factorizations for base in frozen_parts(module)]
        frozen = {id(part) for base in bases for part in base.modules()}
        for module in factorizations:
            if id(module) in frozen:
                continue
            for name, tunable in module.tunable().items():
                if tunable.part in self.parts:
                    yield Tuned(tunable, place=(module, name))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and _part(name, parameter, inside) in self.parts:
                yield Tuned(Tunable.scales(parameter), parameter=parameter)


def _part(name: str, parameter: nn.Parameter, inside: set[int]) -> Part | None:
    if id(parameter) in inside:
        return "values"
    if parameter.ndim > 1:
        return None
    return "biases" if name.endswith("bias") else "norms"
