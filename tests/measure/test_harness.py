import importlib
import importlib.util
import json

import mirrors
import pytest
import text_mirror
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.measure import harness, harness_scores
from lowrank.model.select import Select
from lowrank.point import MeasureSettings, measure
from lowrank.tasks import CausalLM, Digits, HubText, ImageClassification, Packing

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not INSTALLED, reason="needs lm-evaluation-harness")

QUESTION = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
  - metric: acc_norm
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    text_mirror.save_llama(folder / "models" / "me" / "tiny", text_mirror.byte_tokenizer())
    texts = {
        name: {"text": text_mirror.rows(15, seed)} for seed, name in enumerate(["train", "test"])
    }
    text_mirror.save_rows(folder / "datasets" / "me" / "words", **texts)
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


@pytest.fixture
def task():
    return CausalLM(
        name="words",
        architecture="tiny",
        pretrained="me/tiny",
        test=HubText("me/words", "test"),
        train=HubText("me/words", "train"),
        packing=Packing(16),
        calibration_size=2,
        validation_size=2,
    )


def questions(count: int = 12) -> list[dict]:
    rows = [row.split() for row in text_mirror.rows(count, seed=5)]
    choices = [["cat", "dogs by", "sea"], ["ran to see", "mat,", "it"]]
    return [
        {"question": " ".join(row[:5]), "choices": choices[n % 2], "gold": n % 3}
        for n, row in enumerate(rows)
    ]


@pytest.fixture
def own_task(tmp_path):
    """A task of one's own: questions with three answers each."""
    lines = "\n".join(json.dumps(question) for question in questions())
    (tmp_path / "questions.json").write_text(lines)
    file = tmp_path / "tiny_choice.yaml"
    file.write_text(QUESTION.format(data=tmp_path / "questions.json"))
    return str(file)


@torch.no_grad()
def plain_accuracy(model, tokenizer, asked: list[dict]) -> float:
    """How often the right answer is the one with the highest likelihood."""
    right = 0
    for question in asked:
        likelihoods = []
        for choice in question["choices"]:
            before = tokenizer.encode(question["question"])
            ids = tokenizer.encode(f"{question['question']} {choice}")
            log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            after = range(len(before), len(ids))
            likelihoods.append(sum(float(log_p[i - 1, ids[i]]) for i in after))
        right += max(range(3), key=likelihoods.__getitem__) == question["gold"]
    return right / len(asked)


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_scores_of_dense_and_compressed_models_are_those_of_a_plain_loop(task, own_task):
    dense = task.model()
    small = compress(dense, TruncatedSVD(rank=3), Select(kinds="Linear"), task.example()).model
    rounded = compress(dense, Quantization(bits=2), "*", task.example()).model
    for model in (dense, small, rounded):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        random = torch.random.get_rng_state()
        scores, metrics, left_out = harness_scores(model, task.tokenizer, [own_task])
        expected = plain_accuracy(model, task.tokenizer, questions())
        assert scores["tiny_choice_acc"] == pytest.approx(expected)
        assert scores["tiny_choice_examples"] == 12
        assert set(scores) == {"tiny_choice_acc", "tiny_choice_acc_norm", "tiny_choice_examples"}
        assert [metric.name for metric in metrics] == list(scores) and not left_out
        assert all(metric.higher_is_better for metric in metrics)
        # The model is as it was, and so are its tied weights.
        assert "tie_weights" not in vars(model)
        assert all(torch.equal(model.state_dict()[name], t) for name, t in state.items())
        assert torch.equal(torch.random.get_rng_state(), random)
    few = harness_scores(dense, task.tokenizer, [own_task], limit=5).values
    assert few["tiny_choice_examples"] == 5
    assert few["tiny_choice_acc"] == plain_accuracy(dense, task.tokenizer, questions()[:5])


def test_a_score_of_which_nobody_says_which_way_is_better_is_left_out():
    entries = {"acc,none": 0.5, "bpb,none": 1.5, "mcc,strict": 0.25, "acc_stderr,none": "N/A"}
    report = {
        "results": {"own": entries | {"alias": "own"}},
        "higher_is_better": {"own": {"acc": True, "bpb": False, "mcc": None}},
        "n-samples": {"own": {"effective": 4}},
    }
    found = harness.scores_of(report)
    assert found.values == {"own_acc": 0.5, "own_bpb": 1.5, "own_examples": 4.0}
    assert [metric.higher_is_better for metric in found.metrics] == [True, False, True]
    assert found.left_out == {"own_mcc_strict": "the harness does not say which way is better"}


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_scores_are_among_what_is_measured(task, own_task):
    settings = MeasureSettings(4, harness_tasks=(own_task,), harness_limit=4)
    dense = measure(task.model(), task, settings)
    assert dense.values["tiny_choice_examples"] == 4
    compressed = measure(task.model(), task, settings, dense)
    assert compressed.values == dense.values | {"flipped": 0, "kl": 0}


@needs_harness
@pytest.mark.filterwarnings("ignore")
def test_an_unknown_task_is_an_error(task):
    with pytest.raises(ValueError, match="the harness has no task: .*no_such_task"):
        harness_scores(task.model(), task.tokenizer, ["no_such_task"])


def test_a_harness_that_is_not_installed_is_said_before_any_work(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install 'lowrank.harness.'"):
        MeasureSettings(harness_tasks=("arc_easy",))
    with pytest.raises(ValueError, match="not installed"):
        harness_scores(nn.Identity(), None, ["arc_easy"])
    assert MeasureSettings().harness_tasks == ()


def test_bad_options(monkeypatch):
    monkeypatch.setattr(harness, "check_harness", lambda: None)
    with pytest.raises(ValueError, match=r"tasks=\[\] must not be empty"):
        harness_scores(nn.Identity(), None, [])
    with pytest.raises(ValueError, match="limit=0 at least 1"):
        harness_scores(nn.Identity(), None, ["arc_easy"], limit=0)
    with pytest.raises(ValueError, match="harness_limit=0 must be at least 1"):
        MeasureSettings(harness_limit=0)


def test_an_unknown_task_is_known_before_any_model_runs(monkeypatch):
    class Manager:
        def load(self, tasks):
            raise KeyError(tasks[0])

    monkeypatch.setattr(harness, "_task_manager", Manager)
    with pytest.raises(ValueError, match="the harness has no task: arc_esay"):
        harness.check_tasks(["arc_esay"])


def test_a_task_without_a_language_model_has_no_tokenizer(monkeypatch):
    module = importlib.import_module("lowrank.point.settings")
    monkeypatch.setattr(module, "check_harness", lambda: None)
    task = ImageClassification("digits", "mlp", Digits(), "torch.nn:Flatten", None)
    with pytest.raises(ValueError, match="task 'digits' has no language model"):
        _ = task.tokenizer
    with pytest.raises(ValueError, match="task 'digits' has no language model"):
        measure(nn.Flatten(), task, MeasureSettings(harness_tasks=("arc_easy",)))
