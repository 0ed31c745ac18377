"""Images or sounds beside texts: classification by prompts, and retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.model.forward import Example
from lowrank.numerics.checks import check_integer, check_is, check_positive
from lowrank.numerics.memo import fingerprint
from lowrank.tasks import cache
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.class_metrics import class_collection, class_metrics
from lowrank.tasks.class_scores import ClassScores
from lowrank.tasks.networks.prompted import PromptedNetwork
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.pretrained_task import PretrainedTask
from lowrank.tasks.prompts import prompt_ids
from lowrank.tasks.splits import check_seed, check_text, named
from lowrank.tasks.task import BatchSizes, Split, SplitName, Task, check_split, loss_metric
from lowrank.tasks.weights import code_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

# Examples whose features are computed at a time when the projection is fitted.
AT_ONCE = 128
RECALL = Metric(
    "retrieval_recall",
    "share of a class found among as many examples nearest to its text\n(test split)",
    "retrieval recall (%)",
    "percent",
)


@dataclass(frozen=True)
class PromptedClassification(ClassScores, PretrainedTask):
    """A network of images or of sounds beside an encoder of texts, one prompt for each class.

    The network of the task `base` has lost its output layer. One projection from its features into
    the embeddings of the texts is trained, by a ridge regression on examples of the train split, on
    first use, and kept in the cache. Splits are those of `base`.

    "top1" and "top5" are the shares of examples among whose nearest prompts is that of their class;
    "retrieval_recall" is that of the other direction, from a text to the examples. Nothing here is
    zero-shot: the network and the projection know all classes.

    Args:
        name: the name of the task in records; that of `base` with ``-prompts`` if None.
        architecture: the name of both networks in records.
        base: the task of the network, which has a method `features` and gives a class to each
            example. Its model is on the device and of the seed of this task.
        head: the name of the output layer of that network.
        pretrained: the encoder's name in the mirror or on the hub, or its folder, with its own
            tokenizer.
        prompts: the text of each class, by number.
        scale: by which cosines are multiplied to be scores.
        penalty: of the squared norm of the projection, in units of the features' squared norm.
        fitted: the most examples to which the projection is fitted, the first of the train split.
        dtype: the dtype of the encoder, float32, float16 or bfloat16, whatever the file has.
        revision: a commit of the encoder on the hub.
        trust_remote_code: whether code that comes with the encoder may run.
        seed: of the model of `base`.

    Raises:
        ValueError: an option of the wrong kind; from the methods, a network without `features` or
            such an output layer, another number of classes than prompts, or a missing encoder.
    """

    top = (1, 5)
    batch_sizes = BatchSizes(quality=128, latency=(1,))

    name: str | None  # never None after __post_init__
    architecture: str
    base: Task
    head: str
    pretrained: str
    prompts: Sequence[str]
    scale: float = 20.0
    penalty: float = 0.1
    fitted: int = 5000
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_is("base", self.base, Task, "ImageClassification(...)")
        object.__setattr__(self, "name", named(self.name, f"{self.base.name}-prompts"))
        check_text("architecture", self.architecture)
        check_text("head", self.head)
        prompts = [] if isinstance(self.prompts, str) else list(self.prompts)
        if len(set(prompts)) < max(2, len(prompts)) or not all(map(str.strip, map(str, prompts))):
            raise ValueError(f"prompts={self.prompts!r} must be two or more different texts")
        check_positive("scale", self.scale)
        check_positive("penalty", self.penalty)
        check_integer("fitted", self.fitted, least=2)
        check_seed("seed", self.seed)
        _ = self._pretrained  # Made here to check its options.
        need("a projection between embeddings", "torchmetrics", "sklearn", "filelock")

    @property
    def draws_model(self) -> bool:
        return self._base.draws_model

    def check(self) -> None:
        self._base.check()
        super().check()
        cache.check("projections")

    def network(self) -> nn.Module:
        return self._joined(self._base.network(), Pretrained.network).eval()

    def model(self) -> PromptedNetwork:
        model = self._joined(self._base.model(), _trained).to(self.device).eval()
        train = self._base.split("train")
        rows = torch.arange(min(self.fitted, len(train)))
        first = train.batch(rows[:AT_ONCE])
        config = {
            "weights": {
                name: fingerprint(tensor)
                for name, tensor in model.state_dict().items()
                if not name.startswith("projection.")
            },
            "prompts": self._tokens,
            "penalty": self.penalty,
            "rows": len(rows),
            "inputs": fingerprint(first.only.cpu()),
            "labels": fingerprint(first.targets.cpu()),
            "code": code_of(PromptedClassification, PromptedNetwork),
        }
        made = cache.tensors("projections", config, lambda: self._fit(model, train, rows))
        model.projection.load_state_dict(made)
        return model

    def split(self, name: SplitName) -> Split:
        check_split(name)
        return self._base.split(name)

    def whole_test(self) -> Split | None:
        return self._base.whole_test()

    def example(self, batch_size: int = 1) -> Example:
        return self._base.example(batch_size)

    def judged_by(self) -> tuple[Metric, ...]:
        first, *others = class_metrics(len(self.prompts), self.top)
        return (first, RECALL, *others, loss_metric(), *agreement_metrics("example"))

    def metrics(self) -> MetricCollection:
        """top1, top5, macro_recall, macro_f1 and retrieval_recall."""
        from torchmetrics.retrieval import RetrievalRPrecision

        found = class_collection(len(self.prompts), self.top)
        found.add_metrics({RECALL.name: RetrievalRPrecision(empty_target_action="skip")})
        return found.to(self.device)

    def count(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        texts = torch.arange(outputs.shape[1], device=outputs.device).expand_as(outputs)
        for name, metric in metrics.items():
            if name == RECALL.name:
                metric.update(outputs, texts == targets[:, None], indexes=texts)
            else:
                metric.update(outputs, targets)

    def protocol(self) -> dict[str, Any]:
        """The protocol of `base` beside that of the encoder."""
        return {**self._base.protocol(), **super().protocol(), "prompts": list(self.prompts)}

    @cached_property
    def _base(self) -> Task:
        base: Any = self.base
        return replace(base, seed=self.seed, device=self.device)

    @cached_property
    def _tokens(self) -> list[list[int]]:
        return prompt_ids(self._pretrained, self.prompts)

    def _joined(self, network: Any, encoder: Any) -> PromptedNetwork:
        """A network without its output layer beside an encoder, with a projection to be filled."""
        from transformers import AutoModel

        layer = getattr(network, self.head, None)
        if not isinstance(layer, nn.Module) or not callable(getattr(network, "features", None)):
            raise ValueError(
                f"the network of task {self.base.name!r} ({type(network).__name__}) must have a "
                f"method `features` and an output layer head={self.head!r} after it; it has "
                f"{', '.join(name for name, _ in network.named_children())}"
            )
        classes, width = _shape(layer)
        if classes != len(self.prompts):
            raise ValueError(
                f"prompts has {len(self.prompts)} texts, and the network of task "
                f"{self.base.name!r} has {classes} classes: give one text for each"
            )
        setattr(network, self.head, nn.Identity())
        return PromptedNetwork(
            network, width, encoder(self._pretrained, AutoModel), self._tokens, self.scale
        )

    @torch.no_grad()
    def _fit(self, model: PromptedNetwork, train: Split, rows: Tensor) -> dict[str, Tensor]:
        """The projection whose products with the texts are nearest to 1 for the right one and to 0
        for the others, in squares: a ridge regression, and the least vectors that have them."""
        from sklearn.linear_model import Ridge

        batches: list[Batch] = [train.batch(some) for some in rows.split(AT_ONCE)]
        features = torch.cat([model.seen(batch.only) for batch in batches]).double().cpu()
        labels = torch.cat([batch.targets for batch in batches]).cpu()
        wanted = F.one_hot(labels, len(self.prompts)).double()
        norm = float((features - features.mean(dim=0)).square().sum()) / features.shape[1]
        ridge = Ridge(alpha=self.penalty * norm).fit(features.numpy(), wanted.numpy())
        back = torch.linalg.pinv(model.said().double().cpu())
        weight, bias = (torch.from_numpy(values) for values in (ridge.coef_, ridge.intercept_))
        return {"weight": (back @ weight).float(), "bias": (back @ bias).float()}


def _trained(source: Pretrained, auto: Any) -> Any:
    return source.model(auto, unused="pooler")


def _shape(layer: nn.Module) -> tuple[int, int]:
    """The outputs and inputs of an output layer."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        raise ValueError(f"the output layer {type(layer).__name__} has no weight (classes, width)")
    return weight.shape[0], weight.shape[1:].numel()
