"""Measures that the data do not define are left out with the reason, and cost no other."""

import math
import sys
from dataclasses import dataclass, replace

import mirrors
import pytest
import text_mirror
import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning
from lowrank.measure.harness import Scores
from lowrank.metrics.metric import Metric
from lowrank.point import MeasureSettings, compare, evaluate, measure
from lowrank.tasks import CausalLM, Digits, HubText, ImageClassification, Packing
from lowrank.tasks.text_metrics import Likelihood

GENERATOR = torch.Generator().manual_seed(0)
TEXTS = {
    "chinese": ["从前有一个小女孩名叫莉莉她喜欢在公园里玩耍" * 5] * 10,
    "thai": ["กาลครั้งหนึ่งนานมาแล้วมีเด็กผู้หญิงตัวเล็กๆคนหนึ่ง" * 3] * 10,
    # As in a FASTA file, 60 letters in each line.
    "dna": ["".join("ACGT"[i] for i in torch.randint(4, (60,), generator=GENERATOR).tolist())] * 30,
    "one_word": ["a" * 500],
    "white": [" \n \t " * 60],
    "english": text_mirror.rows(20, seed=5),
    "german": ["Die Donaudampfschifffahrtsgesellschaft fuhr heute nicht."] * 20,
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    text_mirror.save_llama(folder / "models" / "me" / "tiny", text_mirror.byte_tokenizer())
    for name, rows in TEXTS.items():
        text_mirror.save_rows(folder / "datasets" / "me" / name, test={"text": rows})
    text_mirror.save_rows(
        folder / "datasets" / "me" / "words", train={"text": text_mirror.rows(40, seed=1)}
    )
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


def task_on(name: str, separator: str = "\n") -> CausalLM:
    return CausalLM(
        name=None,
        architecture="tiny",
        pretrained="me/tiny",
        test=HubText(f"me/{name}", "test"),
        train=HubText("me/words", "train"),
        packing=Packing(32, separator=separator),
        calibration_size=4,
        validation_size=4,
    )


@pytest.mark.parametrize("separator", ["\n", ""])
@pytest.mark.parametrize("name", ["chinese", "thai", "dna", "one_word", "white"])
def test_a_text_without_words_has_no_perplexity_of_words(name, separator):
    task = task_on(name, separator)
    found = evaluate(task.model(), task)
    assert set(found.undefined) == {"word_perplexity"}
    assert "no words that white space parts" in found.undefined["word_perplexity"]
    assert "word_perplexity" not in found.metrics
    # The bits of a byte need no words.
    text = separator.join(TEXTS[name])
    tokens = len(task.tokenizer.encode(text)) // 32 * 32
    covered = len(task.tokenizer.decode(task.tokenizer.encode(text)[:tokens]).encode())
    bits = found.metrics["loss"] / math.log(2) * tokens / covered
    assert found.metrics["bits_per_byte"] == pytest.approx(bits, rel=0.01)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(found.metrics["loss"]), rel=1e-5)


@pytest.mark.parametrize("name", ["english", "german"])
def test_a_text_with_words_has_it(name):
    task = task_on(name)
    found = evaluate(task.model(), task)
    assert found.undefined == {} and found.metrics["word_perplexity"] > 1
    assert task.name == name


def test_the_point_of_such_a_text_is_measured_and_says_what_it_lacks():
    task, settings = task_on("chinese"), MeasureSettings(latency_batch_sizes=())
    dense = measure(task.model(), task, settings)
    small = compress(dense.model, MagnitudePruning(0.5), where="*mlp*", example=task.example())
    record = compare(dense, measure(small.model, task, settings, dense), small, task, settings)
    assert set(record["undefined"]) == {"word_perplexity"}
    for part in ("dense", "compressed"):
        assert record[part]["perplexity"] > 1 and "word_perplexity" not in record[part]
    assert record["compressed"]["kl"] >= 0


def test_a_number_beyond_64_bits_is_none():
    likelihood = Likelihood(tokens_per_word=400.0, tokens_per_byte=None)
    logits = torch.tensor([[[0.0, 9.0]]])
    likelihood.update(logits, torch.tensor([[0]]))
    found = {name: float(value) for name, value in likelihood.compute().items()}
    assert set(found) == {"perplexity", "word_perplexity", "token_accuracy"}
    assert found["word_perplexity"] == math.inf and found["perplexity"] < 1e4


class Odd(torchmetrics.Metric):
    """What some tasks cannot define: 0 / 0, a limit, a number beyond all use; and a number."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.seen += len(outputs)

    def compute(self) -> dict[str, Tensor]:
        nan, limit, far = self.seen * math.nan, self.seen / 0, 1e148 * self.seen.double()
        return {"correlation": nan, "odds": limit, "far": far, "seen": self.seen}


@dataclass(frozen=True)
class OddTask(ImageClassification):
    def metrics(self) -> MetricCollection:
        return MetricCollection({"odd": Odd()})

    def judged_by(self) -> tuple[Metric, ...]:
        names = ("correlation", "odds", "far", "seen", "recall", "loss")
        return tuple(Metric(name, name, name) for name in names)

    def undefined(self) -> dict[str, str]:
        return {"recall": "no example is positive"}


def test_any_measure_of_any_task_may_be_undefined():
    task = OddTask(None, "mlp", Digits(), "torch.nn:Flatten", None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = evaluate(model, task)
    assert found.metrics["seen"] == 360 and set(found.metrics) == {"seen", "loss"}
    assert found.undefined == {
        "recall": "no example is positive",
        "correlation": "it is not a number: the data do not define it",
        "odds": "it is inf, beyond 1e+150, the largest number that a record holds",
        "far": "it is 3.6e+150, beyond 1e+150, the largest number that a record holds",
    }


def test_scores_of_the_harness_may_be_undefined_too(monkeypatch):
    values = {"own_word_perplexity": math.inf, "own_acc": 0.5}
    scores = Scores(values, tuple(Metric(name, name, name) for name in values), {})
    monkeypatch.setattr(sys.modules[measure.__module__], "harness_scores", lambda *_: scores)
    monkeypatch.setattr(MeasureSettings, "__post_init__", lambda self: None)
    monkeypatch.setattr(ImageClassification, "tokenizer", None)
    task = ImageClassification(None, "mlp", Digits(), "torch.nn:Flatten", None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = measure(model, task, MeasureSettings(latency_batch_sizes=(), harness_tasks=("own",)))
    assert found.values["own_acc"] == 0.5 and "own_word_perplexity" not in found.values
    assert found.undefined["own_word_perplexity"].startswith("it is inf, beyond 1e+150")


def test_outputs_that_are_not_finite_are_still_a_failed_measurement():
    task = ImageClassification(None, "mlp", Digits(), "torch.nn:Flatten", None)

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10] * math.nan

    with pytest.raises(ValueError, match="are NaN or infinite; such a model has no quality"):
        evaluate(Broken(), task)


def test_a_copy_on_other_data_gets_their_name_and_a_given_name_stays():
    task = task_on("chinese")
    assert task.name == "chinese" and replace(task, seed=1).name == "chinese"
    other = replace(task, test=HubText("me/english", "test", config="default"))
    assert other.name == "english-default"
    named = replace(task, name="mine")
    assert replace(named, test=HubText("me/english", "test")).name == "mine"
    wiki = HubText("Salesforce/wikitext", "test", "wikitext-2-raw-v1")
    assert replace(task, test=wiki).name == "wikitext-2-raw-v1"
    assert ImageClassification(None, "mlp", Digits(), "a:b", None).name == "digits"
