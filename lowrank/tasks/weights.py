"""The weights of a dense model: trained on first use, those of another task, or published."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.model.contents import names_of, unlike
from lowrank.model.nested import hashes
from lowrank.numerics.checks import check_is
from lowrank.numerics.memo import fingerprint
from lowrank.tasks import cache, hub
from lowrank.tasks.splits import check_text
from lowrank.tasks.task import Split, Task
from lowrank.tasks.training import resuming
from lowrank.tasks.training.loop import Loop
from lowrank.tasks.training.optimizers import optimizer_for
from lowrank.tasks.training.recipe import Recipe
from lowrank.tasks.training.training import Training

# The folder of weights in the cache.
MODELS = "models"
# Examples hashed at once.
FINGERPRINTED = 4096


class Weights(ABC):
    """A source of the weights of a dense model; each final class is a frozen dataclass."""

    @property
    @abstractmethod
    def draws(self) -> bool:
        """Whether they depend on the task's seed."""

    @abstractmethod
    def check(self) -> None:
        """Check what can be checked before the weights are needed, without loading or training.

        Raises:
            ValueError: the weights do not exist, or cannot be kept.
        """

    @abstractmethod
    def fill(
        self, model: nn.Module, task: Task, builder: str, arguments: Mapping[str, Any]
    ) -> None:
        """Load or train the weights of `model`, in place.

        Args:
            builder: ``package.module:function`` that made the model.
            arguments: the arguments of the builder.

        Raises:
            ValueError: there are none, or they do not fit.
        """


@dataclass(frozen=True)
class Trained(Weights):
    """Weights trained by `recipe` on the task's train split on first use, then kept in the cache.

    Cached weights depend on the recipe, the network (its printed structure, the source of its
    builder's module, and the initial weights, hence the seed), the numbers of the train split, and
    the source of the modules of the loss and of the training; a change of any of these trains
    again. A change of code that these import is not noticed.
    """

    recipe: Training

    def __post_init__(self) -> None:
        # A subclass may have options without meaning for a dense model.
        if type(self.recipe) is not Training:
            raise ValueError(f"recipe={self.recipe!r} must be a Training")
        need("a network trained here and kept", "filelock")

    @property
    def draws(self) -> bool:
        return True

    def check(self) -> None:
        cache.check(MODELS)

    def fill(
        self, model: nn.Module, task: Task, builder: str, arguments: Mapping[str, Any]
    ) -> None:
        config = {
            "builder": builder,
            "arguments": plain(arguments),
            "network": repr(model),
            "source": code_of(importlib.import_module(builder.partition(":")[0])),
            "training": code_of(Training, Recipe, Loop, optimizer_for),
            "loss": code_of(type(task).loss, type(task).forward),
            "recipe": asdict(self.recipe),
            "seed": task.seed,
            "initial": {name: fingerprint(t) for name, t in model.state_dict().items()},
            "train": split_fingerprint(task.split("train")),
        }

        def make() -> dict[str, Tensor]:
            # Weights that the cache holds are not trained, so these are counted apart.
            with resuming.named(f"model-{cache.key(config)}"):
                self.recipe.train(model.to(task.device), task)
            return model.state_dict()

        model.load_state_dict(cache.tensors(MODELS, config, make))


@dataclass(frozen=True)
class TrainedOn(Weights):
    """The weights of the trained model of another task, on which this one begins.

    Several tasks so have one base: for a seed its weights are trained once, kept in the cache, and
    the same bit for bit in all of them.

    Args:
        task: the task of the base; its model is the one of the seed and on the device of the task
            that begins with it, whatever its own are.

    Raises:
        ValueError: `task` is none; from `fill`, its network has other tensors.
    """

    task: Task

    def __post_init__(self) -> None:
        check_is("task", self.task, Task, "ImageClassification(...)")

    @property
    def draws(self) -> bool:
        return self.task.draws_model

    def check(self) -> None:
        self.task.check()

    def fill(
        self, model: nn.Module, task: Task, builder: str, arguments: Mapping[str, Any]
    ) -> None:
        base: Any = self.task
        base = replace(base, seed=task.seed, device=task.device)
        # Compared before the base is trained.
        apart = unlike(model.state_dict(), base.network().state_dict())
        if apart:
            raise ValueError(
                f"the network that {builder} makes with arguments={dict(arguments)} cannot begin "
                f"with the model of task {base.name!r}: {names_of(apart)} differ"
            )
        model.load_state_dict(base.model().state_dict())


@dataclass(frozen=True)
class Published(Weights):
    """Published weights, checked to fit the network tensor by tensor; see `hub.load_weights`.

    Args:
        repository: ``organisation/name`` of the model in the mirror or on the hub.
        url: the address of the weights, used without a mirror instead of the hub.
    """

    repository: str
    url: str | None = None

    def __post_init__(self) -> None:
        check_text("repository", self.repository)
        if self.url is not None:
            check_text("url", self.url)
        need("published weights", "huggingface_hub", "filelock")

    @property
    def draws(self) -> bool:
        return False

    def check(self) -> None:
        hub.check_weights(self.repository, self.url)

    def fill(
        self, model: nn.Module, task: Task, builder: str, arguments: Mapping[str, Any]
    ) -> None:
        state = hub.load_weights(self.repository, self.url)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"the weights of {self.repository} do not fit the network that {builder} "
                f"makes with arguments={dict(arguments)}: {error}"
            ) from error


def split_fingerprint(split: Split) -> list[str]:
    """Hashes of the numbers of a split."""
    batches = split.batches(FINGERPRINTED)
    return [one for batch in batches for one in hashes([batch.inputs, batch.targets])]


def code_of(*parts: Any) -> str:
    """A hash of the source of modules, or of those that classes or functions are in. What has no
    file, such as a class in a notebook, counts by its own source, if that is known."""
    digest = hashlib.sha256()
    for part in parts:
        for one in (inspect.getmodule(part), part):
            try:
                digest.update(inspect.getsource(one).encode())  # type: ignore[arg-type]
                break
            except (OSError, TypeError):
                continue
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """A value whose mappings and sequences are dicts and lists, as in JSON."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, str | int | float | None):
        return value
    return [plain(item) for item in value]
