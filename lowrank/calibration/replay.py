"""Runs of a model whose finished blocks return the outputs that were stored on disk."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank.calibration.data import CalibrationData
from lowrank.calibration.piece import Piece, Refused, running
from lowrank.files.atomic import replacing
from lowrank.model.forward import evaluating, unfused_attention
from lowrank.model.sites import Site


@dataclass(frozen=True)
class Unit:
    """The part of a model that is calibrated and compressed in one step: a block or a layer.

    Attributes:
        name: of the block, or of a layer outside of all blocks.
        sites: the weights whose first use is inside.
        calls: the number of its calls in a forward pass.
        is_whole: whether all uses of its weights are inside.
    """

    name: str
    sites: tuple[Site, ...]
    calls: int
    is_whole: bool


class Finished(Exception):
    """The end of the part of a forward pass that is needed."""


class Replay:
    """Runs of a model whose finished units return their stored outputs.

    Args:
        folder: the folder of the stored outputs.
        is_own: whether nobody but this process has written into it; of others only tensors are
            read, in lists, tuples and mappings.
    """

    def __init__(
        self, model: nn.Module, data: CalibrationData, folder: Path, is_own: bool = True
    ) -> None:
        self.model = model
        self.data = data
        self.folder = folder
        self.is_own = is_own
        self.finished: list[Unit] = []

    def is_there(self, unit: Unit) -> bool:
        """Whether the outputs of the next unit are in the folder, all of them."""
        mark = self._mark()
        return mark.is_file() and mark.read_text() == unit.name

    def run(self, last: Unit | None, piece: Piece, number: int) -> None:
        """Run one forward pass in the model's present mode, up to the end of the unit `last` if
        that is given.

        Args:
            number: the number of the piece, from 0.
        """
        with ExitStack() as stack:
            for index, unit in enumerate(self.finished):
                outputs = kept(self._file(index, number), unit.name, self.is_own)
                stack.enter_context(returning(self.model.get_submodule(unit.name), outputs))
            if last is not None:
                stack.enter_context(stopping(self.model.get_submodule(last.name), last.calls))
            try:
                self.data.forward(self.model, piece.batch)
            except Finished:
                pass

    def finish(self, unit: Unit) -> None:
        """Store the outputs of the compressed `unit` for each piece."""
        # Entered once, since entering makes the module drop matrices that it multiplied out.
        with evaluating(self.model), torch.no_grad(), unfused_attention():
            for number, piece in enumerate(self.data.pieces(self.model, alone=True)):
                outputs: list[Any] = []
                keep = lambda module, args, output, outputs=outputs: outputs.append(output)  # noqa: E731
                # Before the model's own hooks, which act on replayed outputs too.
                module = self.model.get_submodule(unit.name)
                handle = module.register_forward_hook(keep, prepend=True)
                try:
                    with running(piece, self.model):
                        self.run(unit, piece, number)
                finally:
                    handle.remove()
                torch.save(outputs, self._file(len(self.finished), number))
        if not self.is_own:
            with replacing(self._mark()) as file:
                file.write_text(unit.name)
        self.finished.append(unit)

    def _mark(self) -> Path:
        """The file that tells that the outputs of the next unit are there."""
        return self.folder / f"{len(self.finished)}.done"

    def _file(self, unit: int, number: int) -> Path:
        return self.folder / f"{unit}-{number}.pt"


def kept(file: Path, name: str, is_own: bool) -> Iterator[Any]:
    """The stored outputs of a unit, one by one; the file is read when the first is taken.

    Args:
        is_own: see `Replay`.

    Raises:
        ValueError: more are taken than are stored, or they are more than tensors.
    """
    try:
        outputs = torch.load(file, weights_only=not is_own)
    except pickle.UnpicklingError:
        # Not `from error`, whose text advises to load without this protection.
        raise Refused(
            f"the outputs of block '{name}' that are kept in {file.parent} are more than tensors, "
            "and only those are read from there: compress in memory"
        ) from None
    while outputs:
        yield outputs.pop(0)  # Popped, so that none is held while the following blocks run.
    raise Refused(
        f"block '{name}' runs more often for some batches than for the first, in which its "
        "calls were counted: use mode='one-shot'"
    )


@contextmanager
def returning(module: nn.Module, outputs: Iterator[Any]) -> Iterator[None]:
    """Inside, a call of the module computes nothing and returns the next of `outputs`."""
    own = dict(module.__dict__)  # Wrappers set `forward` on the instance too.
    module.forward = lambda *_, **__: next(outputs)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if "forward" in own:
            module.forward = own["forward"]


@contextmanager
def stopping(module: nn.Module, calls: int) -> Iterator[None]:
    """Inside, the last of `calls` calls of the module raises `Finished` when it is done."""
    left = calls

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Finished

    # Last of all hooks, so that the others still see the output.
    handle = module.register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()
