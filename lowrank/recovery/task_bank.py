"""A bank of tasks over one base: each has its own trained tensors, and all share the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lowrank.export.skeleton import check_same, layers_of
from lowrank.factorizations import Factorization
from lowrank.files.digest import tensors_hash
from lowrank.files.paths import as_path
from lowrank.files.tensor_files import opened, write
from lowrank.model.contents import Contents, contents, names_of, unlike
from lowrank.numerics.checks import check_integer, check_is
from lowrank.recovery.merge_adapters import merge_adapters, unmerge_adapters
from lowrank.recovery.task_parts import (
    check_unpacked,
    fingerprints,
    follow,
    number_hash,
    places_in,
    total_bytes,
    trained_names,
)

FORMAT = 1
KIND = "task of a base"


class TaskBank:
    """One model in memory, and for each of several tasks its own part of it; see `task_parts`.

    Works for adapters of every kind, for heads, biases and normalisations trained alone, and for
    full fine-tuning, of which nothing is shared.

    Args:
        model: a model of the base, as it was before any task was trained or as it is after one. The
            bank changes it in place, and copies nothing of it.

    Attributes:
        model: the model that runs the task in use. It may be moved to another device or dtype, and
            a task follows when it comes into use; its factorizations must stay. Run in training
            mode it moves the statistics of its BatchNorms, as any model does, for every task that
            has none of its own.
        in_use: the task in use; None before the first `use`.

    Raises:
        ValueError: it is no model, or an optimised one, which would run one task for all.
    """

    def __init__(self, model: nn.Module) -> None:
        check_is("model", model, nn.Module, "the `.model` of `compress`")
        check_unpacked(model)
        self.model = model
        self._described = _described(model)
        self.in_use: str | None = None
        self._tasks: dict[str, dict[str, Tensor]] = {}
        self._trained: set[str] = set()
        # The base's buffers that some tasks have changed.
        self._buffers: dict[str, Tensor] = {}
        self._merged: dict[str, Factorization] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks in the bank, in the order in which they came."""
        return tuple(self._tasks)

    def add(self, task: str, trained: nn.Module) -> None:
        """Put a copy of the own part of a model that was trained on the bank's base into the bank.

        Raises:
            ValueError: the task is there already; the model has another base, other forms or
                other tensors; it trains nothing, or other tensors than the tasks that are there.
        """
        self._check_new(task)
        self._check_apart()
        check_is("trained", trained, nn.Module, "the model in which the task was trained")
        if _forms(trained) != _forms(self.model):
            raise ValueError(
                f"task {task!r} was trained in other factorizations than those of the bank's "
                "model: compress both by one method with the same options"
            )
        ours, theirs = self._contents(), contents(trained)
        self._check_tensors(task, theirs, ours)
        names = trained_names(trained, theirs)
        self._check_names(task, names)
        before, after = fingerprints(self.model), fingerprints(trained)
        before |= {name: number_hash(tensor) for name, tensor in self._buffers.items()}
        moved = {name for name in after if name not in names and after[name] != before[name]}
        frozen = sorted(moved & dict(self.model.named_parameters(remove_duplicate=False)).keys())
        if frozen:
            raise ValueError(
                f"task {task!r} was trained on another base: {names_of(frozen)} require no "
                "gradient in it, and are not those of the bank"
            )
        own = {name: theirs.tensors[name].detach().clone() for name in sorted(names | moved)}
        self._put(task, own, names, ours)

    def use(self, task: str) -> None:
        """Run a task: its own tensors take their places in the model, and nothing is copied.

        An optimizer made before holds the parameters of the task before.

        Raises:
            ValueError: there is no such task; the model is merged, or compressed further.
        """
        own = self._own(task)
        given = {**self._buffers, **own}
        for name, places in places_in(self.model, self._contents(), given).items():
            follow(given[name], getattr(*places[0]))
            for module, place in places:
                setattr(module, place, given[name])
        for module in self.model.modules():
            if isinstance(module, Factorization):
                module.train(module.training)  # Matrices that are kept of the task before.
        self.in_use = task

    def bytes(self, tasks: int | None = None) -> int:
        """Stored bytes of the base, once, and of so many tasks; of those in the bank by default.

        More tasks than there are count as many bytes each as these on average.

        Raises:
            ValueError: the bank is empty, or `tasks` is no whole number from 1.
        """
        if tasks is not None:
            check_integer("tasks", tasks, least=1)
        if not self._tasks:
            raise ValueError("the bank is empty: add a task first")
        own = [total_bytes(part.values()) for part in self._tasks.values()]
        count = len(own) if tasks is None else tasks
        return self.shared_bytes + round(count * sum(own) / len(own))

    @property
    def shared_bytes(self) -> int:
        """Stored bytes of what no task in the bank has a version of its own of."""
        mine = self._trained | self._buffers.keys()
        return total_bytes(t for n, t in self._contents().tensors.items() if n not in mine)

    def save(self, task: str, path: str | Path) -> None:
        """Write the own part of a task to a safetensors file, with the hash of its base.

        Raises:
            ValueError: there is no such task, the model is merged, or a tensor cannot be stored.
            OSError: the file cannot be written.
        """
        own = self._own(task)
        self._check_apart()
        header = {"format": FORMAT, "base": self._base_hash(own), "forms": _forms(self.model)}
        write(as_path(path), {n: t.detach() for n, t in own.items()}, KIND, header)

    def load(self, task: str, path: str | Path) -> None:
        """Put the own part of a task, from a file of `save`, into the bank.

        Raises:
            ValueError: the task is there already; it is no such file, or damaged; or it is of
                another base, other factorizations, or other tensors than those of the tasks there.
            FileNotFoundError: there is no file.
        """
        self._check_new(task)
        ours = self._contents()
        with opened(as_path(path), KIND, FORMAT, "TaskBank.save") as file:
            file.header.only("kind", "format", "base", "forms", "dtypes")
            if file.header["forms"] != _forms(self.model):
                raise ValueError(
                    "its task was trained in other factorizations than those of the bank's model"
                )
            unknown = sorted(file.shapes.keys() - ours.tensors.keys())
            if unknown:
                raise ValueError(f"it holds {names_of(unknown)}, which the bank's model lacks")
            for name, shape in file.shapes.items():
                own = ours.tensors[name]
                check_same(name, (shape, file.dtypes[name]), (tuple(own.shape), own.dtype))
            if file.header["base"] != self._base_hash(file.shapes):
                raise ValueError(
                    "its task was trained on another base than the bank's: their hashes differ"
                )
            parameters = dict(self.model.named_parameters(remove_duplicate=False))
            names = file.shapes.keys() & parameters.keys()
            self._check_names(task, names)
            read, is_whole = file.read()
            if not is_whole:
                raise ValueError("it is damaged: its content is not what was written")
            self._put(task, read, names, ours)

    def merge(self) -> None:
        """Make one matrix of the base and the adapter of the task in use, in each layer.

        Raises:
            ValueError: it is merged already, or no layer holds an adapter.
        """
        self._check_apart()
        self._merged = merge_adapters(self.model)

    def unmerge(self) -> None:
        """Take a merge back: the model is what it was before, bit for bit.

        Raises:
            ValueError: it is not merged.
        """
        if not self._merged:
            raise ValueError("the model is not merged")
        unmerge_adapters(self.model, self._merged)
        self._merged = {}

    def _put(self, task: str, own: dict[str, Tensor], names: Set[str], ours: Contents) -> None:
        """Put a part into the bank, whose `names` are parameters that are trained."""
        buffers = sorted(own.keys() - names)
        places = places_in(self.model, ours, buffers)
        forms = [name for name in buffers if isinstance(places[name][0][0], Factorization)]
        if forms:
            # What is derived of codes and indices, and is not stored, would be that of others.
            raise ValueError(
                f"{names_of(forms)} of task {task!r} are stored in a factorization, and are not "
                "those of the base: a bank exchanges what is trained by gradients, and what the "
                "layers outside of factorizations hold"
            )
        parts = sorted(name for name, view in ours.views.items() if view.base in own)
        if parts:
            raise ValueError(
                f"{names_of(parts)} are parts of the memory of tensors that are a task's own, so "
                "that these cannot be exchanged: give them memory of their own (`.clone()`)"
            )
        for name, tensor in own.items():
            tensor = tensor.to(ours.tensors[name].device)
            own[name] = nn.Parameter(tensor) if name in names else tensor
            if name not in names:
                self._buffers.setdefault(name, ours.tensors[name])
        self._tasks[task], self._trained = own, set(names)

    def _check_names(self, task: str, names: Set[str]) -> None:
        """Raise ValueError unless a task trains something, and what the others train."""
        if not names:
            raise ValueError(f"task {task!r} has no own part: nothing in it requires a gradient")
        if self._tasks and names != self._trained:
            raise ValueError(
                f"task {task!r} trains other tensors than those in the bank: "
                f"{names_of(sorted(names ^ self._trained))} are trained in one of them alone"
            )

    def _contents(self) -> Contents:
        self._check_apart()
        return contents(self.model)

    def _own(self, task: str) -> dict[str, Tensor]:
        if task not in self._tasks:
            raise ValueError(
                f"there is no task {task!r} in the bank: there are "
                f"{', '.join(self._tasks) or 'none'}"
            )
        return self._tasks[task]

    def _check_new(self, task: str) -> None:
        if not isinstance(task, str) or not task:
            raise ValueError(f"task={task!r} must be a text that is not empty")
        if task in self._tasks:
            raise ValueError(f"there is a task {task!r} in the bank already: take another name")

    def _check_apart(self) -> None:
        if self._merged:
            raise ValueError("the model is merged: call `unmerge` first")
        if _described(self.model) != self._described:
            raise ValueError(
                "the factorizations of the bank's model are no longer those of its tasks: use "
                "`TaskBank.merge`, or a new bank for a model that was compressed further"
            )

    def _check_tensors(self, task: str, theirs: Contents, ours: Contents) -> None:
        apart = unlike(theirs.tensors, ours.tensors)
        if apart:
            raise ValueError(
                f"task {task!r} was trained in another model than the bank's: {names_of(apart)} "
                "have other shapes or dtypes, or are in one of them alone"
            )

    def _base_hash(self, own: Mapping[str, Any]) -> str:
        """The hash of the base under a part with these names."""
        tensors = self._contents().tensors | self._buffers
        return tensors_hash({name: tensor for name, tensor in tensors.items() if name not in own})


def _described(model: nn.Module) -> list[str]:
    """The factorizations of a model, whatever its dtype."""
    return [layer.factorization.describe() for layer in layers_of(model)]


def _forms(model: nn.Module) -> list[Any]:
    """The factorizations of a model as JSON, as they come back from a file."""
    return json.loads(json.dumps([layer.to_json() for layer in layers_of(model)]))
