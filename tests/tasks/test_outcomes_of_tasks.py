"""The law of every task: the mean of the outcomes of its examples is the metric on record."""

import copy
import math
from dataclasses import dataclass, replace

import mirrors
import numpy as np
import pytest
import text_mirror
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn
from torchmetrics import MeanSquaredError, MetricCollection

from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.point import evaluate
from lowrank.point.examples import TARGET, hashes, paired
from lowrank.point.standard_errors import standard_errors
from lowrank.records.outcomes import PREDICTED
from lowrank.tasks import (
    CausalLM,
    ClassScores,
    Digits,
    HubText,
    ImageClassification,
    Packing,
    Split,
    Task,
    TextClassification,
    loss_metric,
)
from lowrank.tasks.class_metrics import IGNORED

LENGTHS = [3, 6, 2, 6, 3, 1, 4, 6, 2, 5, 4]
IMAGES = ImageClassification(
    name="digits",
    architecture="mlp",
    source=Digits(test_size=101),
    builder="lowrank.tasks.networks.multilayer:mlp",
    arguments={"widths": [64, 16, 10]},
    weights=None,
)
WORDS = CausalLM(
    name="words",
    architecture="tiny",
    pretrained="me/tiny",
    test=HubText("me/words", "validation"),
    train=HubText("me/words", "train"),
    packing=Packing(32),
)
FILMS = TextClassification(
    name="films",
    architecture="tiny",
    pretrained="me/bert",
    test=HubText("me/films", "test", column="sentence"),
    train=HubText("me/films", "train", column="sentence"),
    classes=3,
    max_length=16,
)


@dataclass(frozen=True)
class Sentences(Split):
    """Each batch padded to its longest, and so its targets."""

    rows: tuple

    def __len__(self):
        return len(self.rows)

    def batch(self, rows):
        found = [self.rows[row] for row in rows.tolist()]
        ids = nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=-1)
        real = ids >= 0
        # The class of a token; that of every fifth is not known.
        targets = torch.where(real & (ids % 5 != 4), ids % 5, IGNORED)
        return Batch((ids,), targets, real={0: real})


@dataclass(frozen=True)
class Tagging(ClassScores):
    """A class for each token: several predictions in an example, of some examples none."""

    name: str = "tagging"
    architecture: str = "tagger"
    seed: int = 0
    device: str = "cpu"

    def network(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 5))

    def model(self):
        return self.network().eval()

    def split(self, name):
        generator = torch.Generator().manual_seed(1)
        rows = [torch.randint(0, 20, (length,), generator=generator) for length in LENGTHS]
        return Sentences((*rows, torch.tensor([4, 9])))

    def forward(self, model, batch):
        return model(batch.only.clamp(min=0)).transpose(1, 2)

    def predictions(self, batch):
        return (batch.targets != IGNORED).sum(dim=1)

    def metrics(self):
        return MetricCollection({})


@dataclass(frozen=True)
class Pairs(Split):
    x: torch.Tensor

    def __len__(self):
        return len(self.x)

    def batch(self, rows):
        x = self.x[rows]
        return Batch({"x": x}, {"y": x.sum(1), "name": [str(row) for row in rows.tolist()]})


@dataclass(frozen=True)
class Summing(Task):
    """A task that says nothing of single examples; its outputs are in a mapping."""

    name: str = "summing"
    architecture: str = "linear"
    seed: int = 0
    device: str = "cpu"

    def network(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Linear(4, 1)

    def model(self):
        return self.network().eval()

    def split(self, name):
        return Pairs(torch.rand(37, 4, generator=torch.Generator().manual_seed(2)))

    def forward(self, model, batch):
        return {"y": model(batch.inputs["x"])[:, 0], "extra": (batch.inputs["x"],)}

    def loss(self, outputs, targets):
        return F.mse_loss(outputs["y"], targets["y"])

    def metrics(self):
        return MetricCollection({"rmse": MeanSquaredError(squared=False)})

    def count(self, metrics, outputs, targets):
        metrics.update(outputs["y"], targets["y"])

    def judged_by(self):
        rmse = Metric("rmse", "error (test split)", "RMSE", higher_is_better=False)
        return (rmse, *super().judged_by())


TASKS = {
    "images": IMAGES,
    "words": WORDS,
    "words that overlap": replace(WORDS, packing=Packing(32, stride=10)),
    "sentences": FILMS,
    "tokens with padding": Tagging(),
    "a task of its own": Summing(),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    text_mirror.save_llama(folder / "models" / "me" / "tiny", text_mirror.byte_tokenizer())
    text_mirror.save_bert(folder / "models" / "me" / "bert")
    texts = {"train": 30, "validation": 12}
    text_mirror.save_rows(
        folder / "datasets" / "me" / "words",
        **{name: {"text": text_mirror.rows(count, seed=count)} for name, count in texts.items()},
    )
    text_mirror.save_rows(
        folder / "datasets" / "me" / "films",
        train=text_mirror.sentences(60, 3, seed=1),
        test=text_mirror.sentences(50, 3, seed=2),
    )
    return folder


@pytest.fixture(params=TASKS.values(), ids=TASKS.keys(), scope="module")
def measured(request, hub, tmp_path_factory):
    """A task, and the evaluations of its model and of a changed one."""
    with pytest.MonkeyPatch.context() as patch:
        mirrors.use(hub, patch)
        patch.setenv("LOWRANK_CACHE", str(tmp_path_factory.mktemp("cache")))
        task = request.param
        model = task.model()
        other = copy.deepcopy(model)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(3)
            for parameter in other.parameters():
                parameter.add_(0.3 * parameter.abs().mean() * torch.randn_like(parameter))
        dense = evaluate(model, task, batch_size=7)
        changed = evaluate(other, task, batch_size=7, reference=dense.outputs)
        again = evaluate(model, task, batch_size=5)
        yield task, dense, changed, again


def test_the_mean_of_the_outcomes_is_the_metric(measured):
    task, *evaluations, _ = measured
    averaged = {metric.name: metric for metric in task.judged_by() if metric.average}
    for found in evaluations:
        own = found.examples
        assert averaged.keys() & found.metrics.keys() == own.values.keys() - {
            PREDICTED,
            "confidence",
        }
        for name in averaged.keys() & found.metrics.keys():
            mean = np.average(own.values[name], weights=own.weights)
            mean = math.exp(mean) if averaged[name].average == "exp" else mean
            assert mean == pytest.approx(found.metrics[name], rel=2e-6, abs=1e-9)
    assert "loss" in own.values and len(own.values) > len(evaluations[0].examples.values)


def test_the_losses_of_groups_add_up_to_the_loss(measured):
    task, dense, changed, again = measured
    wanted = ["token_rank", "position"] if isinstance(task, CausalLM) else []
    for found in (dense, changed, again):
        own = found.examples
        assert list(own.groups) == wanted
        for group in own.groups.values():
            assert np.array_equal(group.counts.sum(axis=1), own.weights)
            total = (group.counts * group.losses).sum(axis=1)
            np.testing.assert_allclose(total, own.weights * own.values["loss"], rtol=1e-9)
            assert group.counts.shape[1] == len(group.labels) > 2
    outcomes = paired(dense.examples, changed.examples)
    for name, one in outcomes.breakdowns.items():
        assert np.array_equal(one.dense, dense.examples.groups[name].losses)
        assert np.array_equal(one.compressed, changed.examples.groups[name].losses)


def test_every_metric_that_is_an_average_has_standard_errors(measured):
    task, dense, changed, _ = measured
    outcomes = paired(dense.examples, changed.examples)
    errors = standard_errors(outcomes, task.judged_by())
    averaged = {metric.name for metric in task.judged_by() if metric.average}
    assert errors["dense"].keys() == averaged & dense.metrics.keys()
    assert errors["compressed"].keys() == averaged & changed.metrics.keys()
    assert errors["change"].keys() == errors["dense"].keys()
    assert all(errors["compressed"][name] > 0 for name in errors["compressed"] if name != "top5")


def test_the_examples_are_the_same_whatever_the_batch_and_the_model(measured):
    _, dense, changed, again = measured
    assert np.array_equal(dense.examples.examples, changed.examples.examples)
    assert np.array_equal(dense.examples.examples, again.examples.examples)
    assert np.array_equal(dense.examples.weights, again.examples.weights)
    assert len(np.unique(dense.examples.examples)) == len(dense.examples.examples)
    for name, values in dense.examples.values.items():
        np.testing.assert_allclose(values, again.examples.values[name], rtol=1e-4, atol=1e-6)


def test_of_a_classifier_they_say_the_class_and_how_sure_it_was():
    model = IMAGES.model()
    found = evaluate(model, IMAGES).examples
    batch = IMAGES.split("test").batch(torch.arange(101))
    with torch.no_grad():
        scores = model(batch.only).softmax(1)
    assert found.values[PREDICTED].tolist() == scores.argmax(1).tolist()
    np.testing.assert_allclose(found.values["confidence"], scores.amax(1), rtol=1e-6)
    assert found.target is not None and found.target.tolist() == batch.targets.tolist()
    assert np.array_equal(found.values["top1"], found.values[PREDICTED] == found.target)


def test_another_input_or_another_target_is_another_example():
    one = Batch((torch.ones(2, 3),), torch.tensor([0, 1]))
    first, second = hashes(one)
    assert first != second
    assert hashes(Batch((torch.ones(2, 3),), torch.tensor([1, 1])))[1] == second
    moved = torch.ones(2, 3)
    moved[0, 2] = 2
    assert hashes(Batch((moved,), torch.tensor([0, 1])))[0] != first
    texts = [hashes(Batch((torch.ones(2, 3),), {"text": list(text)})) for text in ("ab", "ac")]
    assert texts[0][0] == texts[1][0] and texts[0][1] != texts[1][1]


def test_equal_examples_are_told_apart():
    class Twice(Tagging):
        def split(self, name):
            return Sentences((torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([1, 2])))

    found = evaluate(Twice().model(), Twice()).examples.examples
    assert len(set(found.tolist())) == 3
    assert np.array_equal(found, evaluate(Twice().model(), Twice(), batch_size=1).examples.examples)


def contrast(outputs, targets):
    """A loss that a single example does not have."""
    return (outputs["y"] - outputs["y"].mean()).square().mean()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"loss": lambda task, *both: contrast(*both)}, "'loss' has average='mean', and the mean"),
        (
            {"outcomes": lambda task, *both: {}},
            "and `outcomes` gives no values",
        ),
        (
            {"outcomes": lambda task, outputs, batch: {"loss": torch.ones(3)}},
            "one loss for each of the 37",
        ),
        ({"predictions": lambda task, batch: len(batch)}, "predictions.. must be a tensor"),
        (
            {"agreement": lambda task, outputs, dense, batch: {"output_error": torch.ones(5)}},
            None,
        ),
    ],
    ids=["no mean", "none", "another number", "a number for all", "agreement of one at a time"],
)
def test_a_task_whose_outcomes_do_not_make_its_metrics_is_an_error(changed, says):
    task = type("Lying", (Summing,), changed)()
    reference = evaluate(Summing().model(), Summing(), batch_size=37).outputs
    if says is None:
        found = evaluate(task.model(), task, batch_size=37, reference=reference)
        assert found.metrics["output_error"] == 1.0
        return
    with pytest.raises(ValueError, match=says):
        evaluate(task.model(), task, batch_size=37, reference=reference)


class Accurate(Summing):
    """A task with a metric of its own, a share of 37 examples."""

    average, value, outcome = "mean", 0.5, 0.5
    dtype = torch.float32

    def judged_by(self):
        return (*super().judged_by(), Metric("share", "share", "share", average=self.average))

    def metrics(self):
        metrics = super().metrics()
        metrics.add_metrics({"share": Constant(self.value)})
        return metrics

    def loss(self, outputs, targets):
        return super().loss(outputs, targets).to(self.dtype)

    def outcomes(self, outputs, batch):
        share = torch.full((len(batch),), self.outcome, dtype=torch.float64)
        return super().outcomes(outputs, batch) | {"share": share}


class Constant(torchmetrics.Metric):
    full_state_update = False

    def __init__(self, value):
        super().__init__()
        self.value = value

    def update(self, *args):
        pass

    def compute(self):
        return torch.tensor(self.value, dtype=torch.float64)


def measured_of(**changed):
    task = type("Accurate", (Accurate,), changed)()
    return evaluate(task.model(), task, batch_size=37).metrics


@pytest.mark.parametrize("off", [0.0095, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_that_is_nearly_that_of_its_outcomes_is_an_error(off, dtype):
    """The loss may be rounded to bfloat16, and nothing else."""
    assert measured_of(value=0.95, outcome=0.95, dtype=dtype)["share"] == 0.95
    with pytest.raises(ValueError, match="'share' has average='mean', and the mean"):
        measured_of(value=0.95, outcome=0.95 - off, dtype=dtype)


def outcomes_off_by_3_in_1000(task, outputs, batch):
    found = Accurate.outcomes(task, outputs, batch)
    return found | {"loss": 1.003 * found["loss"]}


def test_a_loss_in_bfloat16_is_the_mean_of_its_outcomes_but_for_rounding():
    wide = measured_of()["loss"]
    assert 0 < abs(measured_of(dtype=torch.bfloat16)["loss"] - wide) < 2**-8 * wide
    with pytest.raises(ValueError, match="'loss' has average='mean', and the mean"):
        measured_of(outcomes=outcomes_off_by_3_in_1000)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_metric_that_is_exp_of_a_mean_is_above_zero(value):
    with pytest.raises(ValueError, match=f"'share' has average='exp'.* and {value:g} was measured"):
        measured_of(average="exp", value=value)


def test_a_loss_that_is_no_mean_over_examples_may_say_so():
    class Contrast(Summing):
        def loss(self, outputs, targets):
            return contrast(outputs, targets)

        def judged_by(self):
            return tuple(
                loss_metric(average=None) if metric.name == "loss" else metric
                for metric in super().judged_by()
            )

    found = evaluate(Contrast().model(), Contrast(), batch_size=37)
    assert found.metrics["loss"] > 0 and not found.examples.values


def test_examples_of_two_splits_are_not_paired():
    model = IMAGES.model()
    both = (evaluate(model, IMAGES, split).examples for split in ("test", "validation"))
    with pytest.raises(ValueError, match="measured on different examples"):
        paired(*both)


def test_the_target_is_no_metric():
    assert TARGET not in evaluate(IMAGES.model(), IMAGES).examples.values
