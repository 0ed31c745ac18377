"""Where the weights of a task's dense model come from: trained on first use, or published."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lowrank.memo import fingerprint
from lowrank.tasks import cache, hub
from lowrank.tasks.splits import check_text

if TYPE_CHECKING:
    from lowrank.recovery import FineTune
    from lowrank.tasks.image_classification import ImageClassification


class Weights(ABC):
    """The weights of a dense model; a frozen dataclass in each final class."""

    @property
    @abstractmethod
    def draws(self) -> bool:
        """Whether they depend on the task's seed."""

    @abstractmethod
    def check(self) -> None:
        """Find what can be known before the weights are needed; neither loads nor trains.

        Raises:
            ValueError: they are not there.
        """

    @abstractmethod
    def fill(self, model: nn.Module, task: ImageClassification) -> None:
        """Load or train the weights of `model`, in place.

        Raises:
            ValueError: there are none, or they do not fit.
        """


@dataclass(frozen=True)
class Trained(Weights):
    """Trained by `recipe` on the task's train split on first use, then kept in the cache.

    What is kept belongs to the recipe, the network (its printed structure, the source of the module
    that its builder is in, and the initial weights, hence the seed) and the numbers of the train
    split: a change to any of them trains anew. Code that the builder imports from elsewhere is not
    watched.
    """

    recipe: FineTune

    def __post_init__(self) -> None:
        from lowrank.recovery import FineTune

        if not isinstance(self.recipe, FineTune):
            raise ValueError(f"recipe={self.recipe!r} must be a FineTune")
        if self.recipe.distill:
            raise ValueError(f"distill={self.recipe.distill}: a dense model has no teacher")
        if self.recipe.scope != "model":
            raise ValueError(
                f"scope={self.recipe.scope!r} has no effect on a dense model, which has no "
                "factorizations and is trained whole: leave it out"
            )

    @property
    def draws(self) -> bool:
        return True

    def check(self) -> None:
        pass  # They are made when they are needed.

    def fill(self, model: nn.Module, task: ImageClassification) -> None:
        train = task.split("train")
        config = {
            "builder": task.builder,
            "arguments": plain(task.arguments),
            "network": repr(model),
            "source": source_of(task.builder),
            "recipe": asdict(self.recipe),
            "seed": task.seed,
            "initial": {name: fingerprint(t) for name, t in model.state_dict().items()},
            "train": {
                "pixels": fingerprint(train.images.pixels.cpu()),
                "labels": fingerprint(train.images.labels.cpu()),
                "rows": fingerprint(train.rows.cpu()),
                "white": train.images.white,
                "mean": train.mean.flatten().tolist(),
                "std": train.std.flatten().tolist(),
            },
        }

        def make() -> dict[str, Tensor]:
            self.recipe.recover(model.to(task.device), task)
            return model.state_dict()

        model.load_state_dict(cache.tensors("models", config, make))


@dataclass(frozen=True)
class Published(Weights):
    """Published weights, checked to fit the network tensor by tensor; see `hub.load_weights`.

    Args:
        repository: ``organisation/name`` of the model in the mirror or on the hub.
        url: where to find them without a mirror, if not on the hub.
    """

    repository: str
    url: str | None = None

    def __post_init__(self) -> None:
        check_text("repository", self.repository)
        if self.url is not None:
            check_text("url", self.url)

    @property
    def draws(self) -> bool:
        return False

    def check(self) -> None:
        hub.check_weights(self.repository, self.url)

    def fill(self, model: nn.Module, task: ImageClassification) -> None:
        state = hub.load_weights(self.repository, self.url)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"the weights of {self.repository} do not fit the network that {task.builder} "
                f"makes with arguments={dict(task.arguments)}: {error}"
            ) from error


def source_of(builder: str) -> str:
    """A hash of the module that a builder ``package.module:function`` is in."""
    module = importlib.import_module(builder.partition(":")[0])
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()


def plain(value: Any) -> Any:
    """`value` with its mappings and sequences as dicts and lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, str | int | float | None):
        return value
    return [plain(item) for item in value]
