"""The state of a training between two steps, and what is kept of it in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowrank.files.fields import Fields
from lowrank.files.tensor_files import TensorFile
from lowrank.measure.memory import StepMemory
from lowrank.model.contents import names_of
from lowrank.tasks.training.early_stopping import EarlyStopping
from lowrank.tasks.training.optimizers import check_state_tensors, load_state_tensors, state_tensors


@dataclass
class TrainingState:
    """What changes from step to step.

    Attributes:
        moving: the tensors of the model that training changes, by name.
        part: the epochs, counted from 0.
        per_epoch: steps of each.
        epoch: epochs done, counted from the first of the whole training.
        step: steps done of the epoch that runs.
        total: the sum of the losses of its examples.
        losses: the mean loss of each epoch of this call.
        found: what a record says of the training, once it is done.
        random: the states of the generators to go on with.
        memory: the most in the first steps.
    """

    moving: Mapping[str, Tensor]
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    stopping: EarlyStopping | None
    total: Tensor
    memory: StepMemory
    part: range
    per_epoch: int
    epoch: int
    step: int = 0
    losses: list[float] = field(default_factory=list)
    found: dict[str, Any] | None = None
    random: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether its loss does not say yet that it will end in an error."""
        return bool(self.total.isfinite())

    @property
    def done(self) -> int:
        """Steps done in this call."""
        return (self.epoch - self.part.start) * self.per_epoch + self.step

    def resident(self, model: nn.Module) -> list[Tensor]:
        """The tensors that are in memory before a step."""
        self.scaler.scale(self.total)  # The first use makes its tensors: now, not in the step.
        best = {} if self.stopping is None else self.stopping.best
        kept = {**best, **state_tensors(self.optimizer)}
        return [*model.parameters(), *model.buffers(), *kept.values()]

    def end_epoch(self, loss: float) -> None:
        """Go on to the next epoch, after one of this mean loss."""
        self.losses.append(loss)
        self.epoch, self.step = self.epoch + 1, 0
        self.total.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state, by the names that they have in a file."""
        kept = {f"model.{name}": tensor for name, tensor in self.moving.items()}
        if self.found is not None:
            return kept
        if self.stopping is not None:
            kept |= {f"best.{name}": tensor for name, tensor in self.stopping.best.items()}
        return kept | state_tensors(self.optimizer) | self._random()

    def to_json(self) -> dict[str, Any]:
        """The rest of the state."""
        if self.found is not None:
            return {"found": self.found}
        return {
            "epoch": self.epoch,
            "step": self.step,
            "total": float(self.total),
            "losses": self.losses,
            "peak": self.memory.peak,
            "scaler": self.scaler.state_dict(),
            "validation": None if self.stopping is None else self.stopping.values,
        }

    def check_file(self, file: TensorFile) -> None:
        """Check, before anything is read, that a file has the tensors of such a state.

        Raises:
            ValueError: it has not.
        """
        is_done = "found" in file.header.fields("state")
        own = {f"model.{name}": tensor for name, tensor in self.moving.items()}
        if not is_done:
            own |= self._random()
            if self.stopping is not None:
                own |= {f"best.{name}": tensor for name, tensor in self.moving.items()}
        check_tensors(file, own, self.optimizer)

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor], fields: Fields) -> None:
        """Go on from a state of a file.

        Raises:
            ValueError: it is none.
        """
        if "found" in fields:
            found = fields.fields("found")
            for name in ("losses", "steps", "trained_params"):
                _ = found[name]
            self.found = dict(found)
        else:
            self._take_place(fields)
            self._take_rest(tensors, fields)
        for name, tensor in self.moving.items():
            tensor.copy_(tensors[f"model.{name}"])

    def _take_place(self, fields: Fields) -> None:
        """Go on from an epoch and a step."""
        epoch = fields.integer("epoch", self.part.start, self.part.stop)
        step, total = fields.integer("step", 0, self.per_epoch), fields.number("total")
        done = epoch - self.part.start
        losses = fields.numbers("losses", done)
        if self.stopping is not None:
            self.stopping.values = fields.numbers("validation", done + 1, may_lack=True)
        self.epoch, self.step, self.losses = epoch, step, losses
        self.total.fill_(total)
        self.memory.peak = fields.integer("peak", 1)

    def _take_rest(self, tensors: Mapping[str, Tensor], fields: Fields) -> None:
        """Go on with the best weights, the optimizer, the scale of losses and the generators."""
        if self.scaler.is_enabled():
            scaling, own = fields.fields("scaler"), self.scaler.state_dict()
            self.scaler.load_state_dict({n: type(own[n])(scaling.number(n, 0)) for n in own})
        if self.stopping is not None:
            best = {name: tensors[f"best.{name}"] for name in self.moving}
            self.stopping.best = {name: best[name].to(t.device) for name, t in self.moving.items()}
        self.random = {name: tensors[name] for name in self._random()}
        load_state_tensors(self.optimizer, tensors)

    def restore_random(self) -> None:
        """Give the generators the states to go on with, if they are of a file."""
        if self.random:
            torch.set_rng_state(self.random["random.cpu"])
            if "random.device" in self.random:
                device = self.total.device
                module = torch.get_device_module(device)
                module.set_rng_state(self.random["random.device"], device)
            self.random = {}

    def _random(self) -> dict[str, Tensor]:
        states = {"random.cpu": torch.get_rng_state()}
        device = self.total.device
        if device.type != "cpu":
            states["random.device"] = torch.get_device_module(device).get_rng_state(device)
        return states


def moving(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model that a training may change: parameters that require a gradient, and
    buffers, such as the statistics of BatchNorm."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return trained | dict(model.named_buffers())


def check_tensors(file: TensorFile, own: Mapping[str, Tensor], optimizer: Optimizer) -> None:
    """Check, before anything is read, that a file has tensors like `own`, and beside them at most
    the state of an optimizer.

    Raises:
        ValueError: it has not.
    """
    missing = sorted(own.keys() - file.shapes.keys())
    if missing:
        raise ValueError(f"it lacks {names_of(missing)}")
    for name, tensor in own.items():
        found = file.shapes[name], file.dtypes[name]
        there = tuple(tensor.shape), tensor.dtype
        if found != there:
            raise ValueError(f"'{name}' is {found} in the file and {there} in the training")
    others = {name: shape for name, shape in file.shapes.items() if name not in own}
    check_state_tensors(optimizer, others)
