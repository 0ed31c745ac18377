"""Text classification: any pretrained encoder on any labelled sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.model.forward import Example
from lowrank.numerics.checks import check_flag, check_integer, check_positive
from lowrank.numerics.memo import fingerprint
from lowrank.tasks import cache
from lowrank.tasks.agreement import agreement_metrics, class_agreement
from lowrank.tasks.class_metrics import class_collection, class_metrics, class_outcomes
from lowrank.tasks.sentences import (
    PADDING,
    SentenceClassifier,
    SentenceOutputs,
    SentenceSplit,
    filled_up,
    fit_head,
)
from lowrank.tasks.sourced_task import SourcedTask
from lowrank.tasks.splits import check_division, check_seed, check_text, named
from lowrank.tasks.task import BatchSizes, loss_metric
from lowrank.tasks.text_sources import HubText, check_texts

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

# Sentences per batch when the head is fitted.
EMBEDDED = 64
COSINE = Metric(
    "cosine",
    "mean cosine to the dense model's embeddings\n(test split)",
    "cosine",
    dense=1.0,
    average="mean",
)


@dataclass(frozen=True)
class TextClassification(SourcedTask):
    """A pretrained encoder with a linear head that classifies sentences.

    The embedding of a sentence is the mean of the encoder's states over its tokens. The encoder is
    not trained; the head is a logistic regression on the embeddings of the train split, fitted on
    first use and kept in the cache. Inputs are token ids (batch, length of the longest), −1 after
    the end of a sentence; outputs are logits (batch, classes).

    Agreement with the dense model is measured by "cosine" too, the mean cosine between the two
    models' embeddings of a sentence. It matters to users of the embeddings themselves.

    Splits: `test` is the text `test`, ordered by length. Of the sentences of the text `train`,
    `validation_size` are `validation` and the others `train`; `calibration` is a part of `train`.
    `split_seed` draws the split.

    Args:
        name: the name of the task in records; that of the test data if None.
        architecture: the model's name in records.
        pretrained: the encoder's name in the mirror or on the hub, or its folder. Its own tokenizer
            is used.
        test, train: the two sets of sentences, which must differ.
        classes: the number of classes.
        label: the column with class numbers.
        max_length: the most tokens of a sentence; further ones are cut off.
        normalize: whether embeddings are scaled to length 1.
        penalty: the factor of half the squared norm of the head's weights, added to the summed
            loss.
        dtype: the dtype of the weights, float32, float16 or bfloat16, whatever the file has.
        revision: a commit of the model on the hub.
        trust_remote_code: whether code that comes with the model may run.
        validation_size: a tenth of the sentences of `train`, at most 1000, if not given.
        calibration_size: 256, or all of the split `train` if it has fewer, if not given.
        calibration_seed: draws `calibration` from `train`; by default the first examples are taken.
        seed: the seed of the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, a missing model or text, too few
            sentences, labels that are no classes, or a tokenizer or length that does not fit.
    """

    units = "sentences"
    batch_sizes = BatchSizes(quality=8, latency=(1,))

    name: str | None  # never None after __post_init__
    architecture: str
    pretrained: str
    test: HubText
    train: HubText
    classes: int
    label: str = "label"
    max_length: int = 128
    normalize: bool = True
    penalty: float = 1.0
    validation_size: int | None = None
    calibration_size: int | None = None
    calibration_seed: int | None = None
    split_seed: int = 0
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_texts(self.test, self.train)
        object.__setattr__(self, "name", named(self.name, self.test.name))
        check_text("architecture", self.architecture)
        check_text("label", self.label)
        check_integer("classes", self.classes, least=2)
        check_integer("max_length", self.max_length, least=1)
        check_flag("normalize", self.normalize)
        check_positive("penalty", self.penalty)
        check_division(
            self.validation_size, self.calibration_size, self.calibration_seed, self.split_seed
        )
        check_seed("seed", self.seed)
        _ = self._pretrained  # Made here to check its options.
        need("a classifier of sentences", "torchmetrics", "sklearn", "filelock")

    def check(self) -> None:
        super().check()
        self._check_classes(self.split("train"))
        cache.check("heads")

    def network(self) -> nn.Module:
        from transformers import AutoModel

        self._pretrained.check_length("max_length", self.max_length)
        return SentenceClassifier(
            self._pretrained.network(AutoModel), self.classes, self.normalize
        ).eval()

    def model(self) -> SentenceClassifier:
        from transformers import AutoModel

        encoder = self._pretrained.model(AutoModel, unused="pooler")
        model = SentenceClassifier(encoder, self.classes, self.normalize).to(self.device).eval()
        train = self.split("train")
        config = {
            "encoder": {name: fingerprint(t) for name, t in encoder.state_dict().items()},
            "network": repr(model),
            "normalize": self.normalize,
            "penalty": self.penalty,
            "ids": fingerprint(train.ids.cpu()),
            "labels": fingerprint(train.labels.cpu()),
        }
        head = cache.tensors("heads", config, lambda: self._fit(model, train))
        model.head.load_state_dict(head)
        return model

    def forward(self, model: nn.Module, batch: Batch) -> SentenceOutputs:
        assert isinstance(model, SentenceClassifier)
        embeddings = model.embed(batch.only)
        return SentenceOutputs(model.head(embeddings), embeddings)

    def loss(self, outputs: SentenceOutputs, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.logits, targets)

    def outcomes(self, outputs: SentenceOutputs, batch: Batch) -> dict[str, Tensor]:
        """ "loss", "top1", "predicted", "confidence" and "target"."""
        return class_outcomes(outputs.logits, batch.targets)

    def agreement(
        self, outputs: SentenceOutputs, dense: SentenceOutputs, batch: Batch
    ) -> dict[str, Tensor]:
        """ "flipped", "kl" and "cosine", which is 1 if both embeddings have the same direction."""
        del batch
        ours, theirs = outputs.embeddings.double(), dense.embeddings.double()
        cosine = F.cosine_similarity(ours, theirs, dim=1)
        return class_agreement(outputs.logits, dense.logits) | {"cosine": cosine}

    def distance(self, outputs: SentenceOutputs, dense: SentenceOutputs, batch: Batch) -> Tensor:
        """The mean over the batch of 1 − cosine of the embeddings, of which the head sees only a
        few directions.
        """
        del batch
        return 1 - F.cosine_similarity(outputs.embeddings, dense.embeddings, dim=1).mean()

    def judged_by(self) -> tuple[Metric, ...]:
        agreement = agreement_metrics("example")
        return (*class_metrics(self.classes), loss_metric(), *agreement, COSINE)

    def metrics(self) -> MetricCollection:
        """top1, macro_recall and macro_f1."""
        return class_collection(self.classes).to(self.device)

    def count(self, metrics: MetricCollection, outputs: SentenceOutputs, targets: Tensor) -> None:
        metrics.update(outputs.logits, targets)

    def example(self, batch_size: int = 1) -> Example:
        """Test sentences of the median length, hence without padding; they repeat if there are too
        few.
        """
        test = self._test_examples
        lengths = (test.ids != PADDING).sum(dim=1)
        usual = torch.nonzero(lengths == lengths.median())[:, 0]
        rows = usual[torch.arange(batch_size, device=usual.device) % len(usual)]
        return test.batch(rows).inputs

    def protocol(self) -> dict[str, Any]:
        """The numbers of sentences; "longest" is in tokens, after the cut at `max_length`."""
        return {
            **super().protocol(),
            "test_sentences": len(self._test_examples),
            "train_sentences": len(self.split("train")),
            "calibration_sentences": len(self._division.calibration),
            "longest": self._test_examples.ids.shape[1],
        }

    def _ordered(self, found: SentenceSplit) -> SentenceSplit:
        # Sorted by length, so that batches hold little padding.
        return found.part((found.ids != PADDING).sum(dim=1).argsort(stable=True))

    def _read(self, source: HubText) -> SentenceSplit:
        self._pretrained.check_length("max_length", self.max_length)
        labels = torch.tensor(source.labels(self.label))
        if int(labels.max()) >= self.classes:
            raise ValueError(
                f"{source} has class number {int(labels.max())}, and classes={self.classes}: "
                "numbers start at 0"
            )
        ids = self._pretrained.tokenizer(
            source.rows(),
            truncation=True,
            max_length=self.max_length,
            verbose=False,
            # Lists of ones and zeros, which take as long as the ids.
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        short = [row for row, sentence in enumerate(ids) if len(sentence) == 0]
        if short:
            raise ValueError(f"{source}: the sentence in row {short[0]} has no tokens")
        padded = filled_up(ids)
        self._pretrained.check_ids(padded)
        return SentenceSplit(padded.to(self.device), labels.to(self.device))

    def _check_classes(self, train: SentenceSplit) -> None:
        """Raise ValueError unless the train split has sentences of every class."""
        present = train.labels.unique().tolist()
        if present != list(range(self.classes)):
            raise ValueError(
                f"the train split has examples of classes {present} only, and "
                f"classes={self.classes}: lower it, or take other data"
            )

    @torch.no_grad()
    def _fit(self, model: SentenceClassifier, train: SentenceSplit) -> dict[str, Tensor]:
        """The head's weights: a multinomial logistic regression."""
        self._check_classes(train)
        order = (train.ids != PADDING).sum(dim=1).argsort(stable=True)
        sorted_train = train.part(order)
        parts = [model.embed(batch.only) for batch in sorted_train.batches(EMBEDDED)]
        embeddings, labels = torch.cat(parts).double().cpu(), sorted_train.labels.cpu()
        fitted = fit_head(embeddings, labels, self.penalty)
        return {name: tensor.to(model.head.weight.dtype) for name, tensor in fitted.items()}
