"""Trainings that go on where a killed process left them, and end with the same weights to the bit.

A file holds the state of one training: safetensors and JSON, never pickle. It is written whole, and
compared with the training and the model before anything of it is read.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from lowrank.files.fields import Fields
from lowrank.files.paths import as_path
from lowrank.files.tensor_files import TensorFile, opened, write

FORMAT = 2
KIND = "training"
# Seconds between two writes: at most so much work is lost.
SECONDS = 60.0


class KeptState(Protocol):
    """What changes from step to step of a training."""

    @property
    def is_sound(self) -> bool:
        """Whether there is something to go on to."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All its tensors, by the names that they have in a file."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The rest of it."""
        ...

    def check_file(self, file: TensorFile) -> None:
        """Raise ValueError unless a file, of which nothing is read yet, has its tensors."""
        ...

    def take(self, tensors: Mapping[str, Tensor], fields: Fields) -> None:
        """Go on from what a file has; ValueError where that is no such state."""
        ...


class Checkpoints:
    """The folder with the states of the trainings that follow each other.

    Args:
        folder: made with the first file.
        seconds: at least between two writes. A training that ends sooner leaves no file, and is
            done again.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.part = "training"
        self._counts: Counter[str] = Counter()
        self._written = time.monotonic()

    def next(self, made_for: Mapping[str, Any]) -> Checkpoint:
        """That of the next training."""
        number = self._counts[self.part]
        self._counts[self.part] += 1
        path = self.folder / f"{self.part}-{number}.safetensors"
        return Checkpoint(path, json.loads(json.dumps(made_for, default=str)), self)

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self._written >= self.seconds

    def was_written(self) -> None:
        """Count the seconds anew."""
        self._written = time.monotonic()


@dataclass(frozen=True)
class Checkpoint:
    """The file of one training.

    Attributes:
        path: the file, which need not be there.
        made_for: JSON with everything on which the training depends.
    """

    path: Path
    made_for: Mapping[str, Any]
    _all: Checkpoints

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        return self._all.is_due

    @property
    def is_there(self) -> bool:
        """Whether there is something to go on from."""
        return self.path.exists()

    def keep(self, state: KeptState) -> None:
        """Write the state of the training, unless it will end in an error."""
        if not state.is_sound:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = {"format": FORMAT, "made_for": self.made_for, "state": state.to_json()}
        write(self.path, state.tensors(), KIND, header)
        self._all.was_written()

    def resume(self, state: KeptState) -> None:
        """Take over the state that was written, if there is one.

        Raises:
            ValueError: the file is damaged, or is of another training or model.
        """
        if not self.is_there:
            return
        with opened(self.path, KIND, FORMAT, "a training that was interrupted") as file:
            self._check_same(file.header.fields("made_for"))
            state.check_file(file)
            tensors, is_whole = file.read()
            if not is_whole:
                raise ValueError("it is damaged: its content is not what was written")
            state.take(tensors, file.header.fields("state"))

    def _check_same(self, theirs: Fields) -> None:
        names = sorted({*self.made_for, *theirs})
        other = [one for one in names if theirs.get(one) != self.made_for.get(one)]
        if other:
            raise ValueError(
                f"it is the state of another training, which differs in {', '.join(other)}: delete "
                "it to train from the start, or name another folder"
            )


_CHECKPOINTS: ContextVar[Checkpoints | None] = ContextVar("checkpoints", default=None)


@contextmanager
def resumable(folder: str | Path, seconds: float = SECONDS) -> Iterator[None]:
    """Inside, trainings keep their states in a folder, and go on from those that are there.

    A process that runs the same trainings in the same order after an earlier one was killed ends
    with the same weights to the bit, on the same machine with the same libraries. Who is done with
    them removes the folder.

    Args:
        folder: of these trainings alone.
        seconds: at least between two writes; each holds the weights that are trained, the buffers
            and the state of the optimizer.

    Raises:
        ValueError: `folder` is no path; from a training, a file there is damaged, or is of another
            training or model.
    """
    token = _CHECKPOINTS.set(Checkpoints(as_path(folder, "folder"), seconds))
    try:
        yield
    finally:
        _CHECKPOINTS.reset(token)


@contextmanager
def named(part: str) -> Iterator[None]:
    """Inside, the files of trainings have this name, and numbers of their own.

    For trainings that a process may do without, because what they give is kept elsewhere.
    """
    kept = _CHECKPOINTS.get()
    if kept is None:
        yield
        return
    before, kept.part = kept.part, part
    try:
        yield
    finally:
        kept.part = before


def next_checkpoint(made_for: Callable[[], Mapping[str, Any]]) -> Checkpoint | None:
    """That of the next training; None outside of `resumable`.

    Args:
        made_for: gives the JSON with everything on which the training depends.
    """
    kept = _CHECKPOINTS.get()
    return None if kept is None else kept.next(made_for())
