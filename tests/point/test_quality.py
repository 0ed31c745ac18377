import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassRecall

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.point import Evaluation, evaluate, quality
from lowrank.tasks.class_metrics import class_metrics
from lowrank.tasks.class_scores import ClassScores
from lowrank.tasks.task import Split, SplitName, Task

CLASSES = 6


@dataclass(frozen=True)
class Rows(Split):
    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, rows: Tensor) -> Batch:
        return Batch((self.inputs[rows],), self.targets[rows])


@dataclass(frozen=True)
class Short(Rows):
    def batch(self, rows: Tensor) -> Batch:
        return super().batch(rows[1:])


def short(task: Task, name: SplitName) -> Split:
    rows = RandomRows.split(task, name)
    return Short(rows.inputs, rows.targets)


@dataclass
class Plain:
    logits: Tensor


@dataclass(frozen=True)
class RandomRows(ClassScores):
    """Random targets; the inputs of a split are what a model makes logits of."""

    name: str = "rows"
    architecture: str = "linear"
    seed: int = 0
    device: str = "cpu"
    examples: int = 103
    top = (1, 5)

    def network(self) -> nn.Module:
        return nn.Identity()

    def model(self) -> nn.Module:
        return self.network()

    def split(self, name: SplitName) -> Split:
        generator = torch.Generator().manual_seed({"test": 0, "validation": 1}[name])
        inputs = torch.randn(self.examples, CLASSES, generator=generator)
        # The last class never occurs, as happens in small splits.
        targets = torch.randint(0, CLASSES - 1, (self.examples,), generator=generator)
        inputs[torch.arange(self.examples), targets] += 1
        return Rows(inputs, targets)

    def judged_by(self) -> tuple[Metric, ...]:
        return (*class_metrics(CLASSES, top=(1, 5)), *super().judged_by())

    def metrics(self) -> MetricCollection:
        return MetricCollection(
            {
                "top1": MulticlassAccuracy(CLASSES, average="micro"),
                "top5": MulticlassAccuracy(CLASSES, average="micro", top_k=5),
                "macro_recall": MulticlassRecall(CLASSES),
                "macro_f1": MulticlassF1Score(CLASSES),
            }
        )

    def example(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        return (self.split("test").inputs[:batch_size],)  # type: ignore[attr-defined]


def outputs_of(evaluation: Evaluation) -> list[Tensor]:
    return list(evaluation.outputs)


def logits_and_targets(split: SplitName = "test") -> tuple[np.ndarray, np.ndarray]:
    rows = RandomRows().split(split)
    assert isinstance(rows, Rows)
    return rows.inputs.numpy(), rows.targets.numpy()


@pytest.mark.parametrize("batch_size", [1, 10, 64, 103, 1000])
def test_metrics_are_sklearns_whatever_the_last_batch(batch_size):
    metrics = evaluate(nn.Identity(), RandomRows(), batch_size=batch_size).metrics
    logits, targets = logits_and_targets()
    predictions = logits.argmax(1)
    options = {"average": "macro", "zero_division": 0}
    expected = {
        # Dividing every batch by batch_size would understate a short last one.
        "top1": sklearn.metrics.accuracy_score(targets, predictions),
        "top5": sklearn.metrics.top_k_accuracy_score(targets, logits, k=5, labels=range(CLASSES)),
        "macro_recall": sklearn.metrics.recall_score(targets, predictions, **options),
        "macro_f1": sklearn.metrics.f1_score(targets, predictions, **options),
        "loss": sklearn.metrics.log_loss(
            targets, scipy.special.softmax(logits.astype(float), axis=1), labels=range(CLASSES)
        ),
    }
    assert metrics == pytest.approx(expected, abs=1e-6)


def test_outputs_are_the_models_by_batch():
    outputs = outputs_of(evaluate(nn.Identity(), RandomRows(), batch_size=50))
    assert [len(output) for output in outputs] == [50, 50, 3]
    assert np.array_equal(torch.cat(outputs).numpy(), logits_and_targets()[0])


def test_the_split_is_the_one_asked_for():
    outputs = outputs_of(evaluate(nn.Identity(), RandomRows(), split="validation"))
    assert np.array_equal(torch.cat(outputs).numpy(), logits_and_targets("validation")[0])


class Blur(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x + x.roll(1, dims=1)


def test_agreement_is_scipys_divergence_and_the_share_of_changed_predictions():
    task = RandomRows()
    dense = evaluate(nn.Identity(), task, batch_size=40)
    blurred = evaluate(Blur(), task, batch_size=40, reference=dense.outputs)
    p, q = (torch.cat(outputs_of(e)).double().numpy() for e in (dense, blurred))
    divergence = scipy.stats.entropy(
        scipy.special.softmax(p, axis=1), scipy.special.softmax(q, axis=1), axis=1
    )
    assert blurred.metrics["kl"] == pytest.approx(divergence.mean(), rel=1e-9)
    assert blurred.metrics["flipped"] == (p.argmax(1) != q.argmax(1)).mean() > 0


def test_a_model_agrees_with_itself():
    task = RandomRows()
    dense = evaluate(nn.Identity(), task)
    assert {"flipped", "kl"}.isdisjoint(dense.metrics)
    same = evaluate(nn.Identity(), task, reference=dense.outputs)
    assert same.metrics == dense.metrics | {"flipped": 0.0, "kl": 0.0}


def test_a_small_divergence_is_not_lost_in_rounding():
    class Nudge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.double() * (1 + 1e-6)

    task = RandomRows()
    dense = evaluate(nn.Identity(), task)
    nudged = evaluate(Nudge(), task, reference=dense.outputs)
    # To second order KL is half the variance of the change of the logits under p.
    logits = logits_and_targets()[0].astype(float)
    p, change = scipy.special.softmax(logits, axis=1), 1e-6 * logits
    variance = (p * change**2).sum(1) - (p * change).sum(1) ** 2
    assert nudged.metrics["kl"] == pytest.approx(variance.mean() / 2, rel=1e-3)


class Break(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 2.5, self.value, x)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_an_error(value):
    model = Break(value).train()
    with pytest.raises(ValueError, match=r"1 of 6 outputs .* example \d+ are NaN or infinite"):
        evaluate(model, RandomRows(), batch_size=1)
    assert model.training


def test_an_empty_split_is_an_error():
    with pytest.raises(ValueError, match="the split 'test' of task 'rows' is empty"):
        evaluate(nn.Identity(), RandomRows(examples=0))


def test_a_reference_from_other_batches_is_an_error():
    dense = evaluate(nn.Identity(), RandomRows(), batch_size=50)
    with pytest.raises(ValueError, match="same split with the same batch_size"):
        evaluate(nn.Identity(), RandomRows(), batch_size=40, reference=dense.outputs)


def test_dropout_and_batch_norm_are_at_rest_and_modes_restored():
    model = nn.Sequential(nn.BatchNorm1d(CLASSES), nn.Dropout())
    model[1].eval()
    evaluate(model, RandomRows())
    assert [m.training for m in model.modules()] == [True, True, False]
    assert model[0].num_batches_tracked == 0


@pytest.mark.parametrize("limit", [0, 2000])
def test_outputs_too_large_to_keep_are_made_again(monkeypatch, limit):
    task, options = RandomRows(), {"batch_size": 40}
    dense = evaluate(nn.Identity(), task, **options)
    expected = evaluate(Blur(), task, reference=dense.outputs, **options).metrics
    assert isinstance(dense.outputs, list)
    # All three batches take 2472 bytes.
    monkeypatch.setattr(quality, "KEPT_BYTES", limit)
    again = evaluate(nn.Identity(), task, **options)
    assert not isinstance(again.outputs, list)
    for _ in range(2):
        measured = evaluate(Blur(), task, reference=again.outputs, **options)
        assert measured.metrics == expected


@pytest.mark.parametrize("limit", [0, 2**30])
def test_a_reference_of_another_length_is_an_error(monkeypatch, limit):
    monkeypatch.setattr(quality, "KEPT_BYTES", limit)
    long, short = RandomRows(examples=80), RandomRows(examples=40)
    observed = {t: evaluate(nn.Identity(), t, batch_size=40).outputs for t in (long, short)}
    with pytest.raises(ValueError, match="more than these 40 examples"):
        evaluate(nn.Identity(), short, batch_size=40, reference=observed[long])
    with pytest.raises(ValueError, match="do not match the reference's end"):
        evaluate(nn.Identity(), long, batch_size=40, reference=observed[short])


@pytest.mark.parametrize(
    "changed, says",
    [
        (
            {
                "metrics": lambda task: MetricCollection({"loss": MeanMetric()}),
                "count": lambda task, metrics, outputs, targets: metrics.update(outputs),
            },
            "one name, loss",
        ),
        ({"metrics": lambda task: MetricCollection({})}, "judges by 'top1', which its metrics do"),
        ({"forward": lambda task, model, batch: Plain(model(batch.only))}, "no tensor is seen"),
        ({"count": lambda task, metrics, outputs, targets: None, "split": short}, "for 103 rows"),
    ],
    ids=["a name twice", "no primary measure", "outputs that are not seen", "examples missing"],
)
def test_a_task_that_does_not_do_as_it_says_is_an_error(changed, says):
    task = type("Lying", (RandomRows,), changed)()
    with pytest.raises(ValueError, match=says):
        evaluate(nn.Identity(), task)


def test_a_task_may_judge_by_how_far_a_model_is_from_the_dense_one():
    class ByDivergence(RandomRows):
        def judged_by(self):
            return tuple(sorted(super().judged_by(), key=lambda metric: metric.name != "kl"))

    task = ByDivergence()
    dense = evaluate(nn.Identity(), task)
    assert "kl" not in dense.metrics
    assert evaluate(Blur(), task, reference=dense.outputs).metrics["kl"] > 0

    class Never(ByDivergence):
        def agreement(self, outputs, dense, batch):
            return {}

    with pytest.raises(ValueError, match="judges by 'kl', which its metrics do not measure"):
        evaluate(Blur(), Never(), reference=dense.outputs)


def test_a_batch_without_predictions_takes_nothing_from_the_loss():
    class Few(RandomRows):
        def predictions(self, batch):
            return super().predictions(batch) * (len(batch) != 3)

        def loss(self, outputs, targets):
            return super().loss(outputs, targets) * (float("nan") if len(targets) == 3 else 1)

        def count(self, metrics, outputs, targets):
            if len(targets) != 3:
                super().count(metrics, outputs, targets)

    found = evaluate(nn.Identity(), Few(), batch_size=50).metrics["loss"]
    assert math.isfinite(found)
