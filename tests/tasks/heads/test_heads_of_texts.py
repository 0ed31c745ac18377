"""Models of transformers for texts: classes, numbers, classes of words, hidden tokens."""

from dataclasses import replace

import head_mirror
import numpy as np
import pytest
import text_mirror
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
)

import lowrank
from lowrank.calibration.collect import collect
from lowrank.calibration.data import TaskData
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import (
    ClassTargets,
    HiddenTokens,
    HubRows,
    HubText,
    NumberTargets,
    TextInputs,
    TextTargets,
    TextToText,
    Training,
    TransformersTask,
    TranslationScores,
    WordClassTargets,
    WordInputs,
)
from lowrank.tasks.class_metrics import IGNORED

CLASSES = TransformersTask(
    name="kinds",
    architecture="bert",
    pretrained="me/classes",
    auto="AutoModelForSequenceClassification",
    test=HubRows("me/texts", "test"),
    train=HubRows("me/texts", "train"),
    inputs=TextInputs("sentence", max_length=16),
    targets=ClassTargets(),
    validation_size=6,
    calibration_size=10,
)
PAIRS = replace(CLASSES, inputs=TextInputs("sentence", pair="other", max_length=24))
NUMBERS = replace(PAIRS, name="likeness", pretrained="me/number", targets=NumberTargets("likeness"))
WORDS = replace(
    CLASSES,
    name="names",
    pretrained="me/tags",
    auto="AutoModelForTokenClassification",
    inputs=WordInputs("words", max_length=16),
    targets=WordClassTargets("tags"),
)
HIDDEN = replace(
    CLASSES,
    name="hidden",
    pretrained="me/masked",
    auto="AutoModelForMaskedLM",
    targets=HiddenTokens(share=0.3),
)
TASKS = {"classes": CLASSES, "pairs": PAIRS, "numbers": NUMBERS, "words": WORDS, "hidden": HIDDEN}


def rows(count, seed):
    """Sentences with their kind, a second one, how alike the two are, and words with tags."""
    made = text_mirror.sentences(count, 3, seed)
    other = text_mirror.sentences(count, 3, seed + 100)["sentence"]
    pairs = zip(made["sentence"], other, strict=True)
    made["likeness"] = [len(set(a.split()) & set(b.split())) + 0.5 for a, b in pairs]
    made["other"] = other
    made["words"] = [["a-film", *text.split()] for text in made["sentence"]]
    made["tags"] = [[_tag(words, at) for at in range(len(words))] for words in made["words"]]
    return made


def _tag(words, at):
    kinds = {word: 1 for word in text_mirror.POSITIVE} | {word: 3 for word in text_mirror.NEGATIVE}
    kind = kinds.get(words[at], 0)
    return kind + (kind > 0 and at > 0 and kinds.get(words[at - 1]) == kind)


def save(folder, names=("one", "two", "three"), **splits):
    folder.mkdir(parents=True)
    features = Features(
        sentence=Value("string"),
        other=Value("string"),
        likeness=Value("float32"),
        label=ClassLabel(names=list(names)),
        words=Sequence(Value("string")),
        tags=Sequence(ClassLabel(names=list(head_mirror.TAGS))),
    )
    for name, columns in splits.items():
        Dataset.from_dict(columns, features).to_parquet(str(folder / f"{name}.parquet"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    models, tokenizer = folder / "models" / "me", head_mirror.masked_tokenizer()
    tags = dict(enumerate(head_mirror.TAGS))
    kinds = {0: "ONE", 1: "TWO", 2: "THREE"}
    for name, cls, options in (
        ("classes", BertForSequenceClassification, {"id2label": kinds}),
        ("number", BertForSequenceClassification, {"num_labels": 1}),
        ("tags", BertForTokenClassification, {"id2label": tags}),
        ("masked", BertForMaskedLM, {}),
    ):
        config = head_mirror.bert_config(**options)
        text_mirror.save(models / name, cls, config, tokenizer)
    text_mirror.save(models / "bare", BertForMaskedLM, head_mirror.bert_config())
    text_mirror.save_bert(models / "unmasked")
    data = folder / "datasets" / "me"
    save(data / "texts", train=rows(40, 1), test=rows(24, 2))
    turned = {0: 2, 1: 0, 2: 1}
    other = rows(24, 2)
    other["label"] = [turned[label] for label in other["label"]]
    save(data / "turned", ("two", "three", "one"), test=other)
    bad = rows(4, 3)
    text_mirror.save_rows(
        data / "bad",
        test={
            "sentence": bad["sentence"],
            "label": [0, 1, 3, 0],
            "hidden": [0, -1, 0, 0],
            "likeness": [1.0, 2.0, float("nan"), 1.0],
            "words": [["a"], ["a", "film"], [], ["is"]],
            "tags": [[0], [1], [0], [9]],
        },
    )
    return folder


def test_accuracy_is_that_of_the_models_own_predictions():
    model, batch = CLASSES.model(), head_mirror.whole(CLASSES)
    right = sum(  # One by one, hence without padding.
        int(model(**CLASSES.split("test").batch(torch.tensor([row])).inputs).logits.argmax())
        == int(batch.targets[row])
        for row in range(len(batch))
    )
    found = evaluate(model, CLASSES, batch_size=5).metrics
    assert found["top1"] == pytest.approx(right / len(batch))


def test_classes_of_other_numbers_and_the_same_names_go_by_name():
    turned = replace(CLASSES, test=HubRows("me/turned", "test"))
    assert head_mirror.whole(turned).targets.tolist() == head_mirror.whole(CLASSES).targets.tolist()


def test_pairs_are_two_segments():
    inputs = head_mirror.whole(PAIRS).inputs
    assert set(inputs["token_type_ids"].unique().tolist()) == {0, 1}
    assert inputs["input_ids"].shape[1] > head_mirror.whole(CLASSES).inputs["input_ids"].shape[1]


def test_correlations_are_those_of_scipy():
    model, batch = NUMBERS.model(), head_mirror.whole(NUMBERS)
    given = model(**batch.inputs).logits[:, 0].detach().numpy()
    found = evaluate(model, NUMBERS, batch_size=7).metrics
    assert found["pearson"] == pytest.approx(pearsonr(given, batch.targets).statistic, abs=1e-5)
    assert found["spearman"] == pytest.approx(spearmanr(given, batch.targets).statistic, abs=1e-5)


def test_classes_are_of_the_first_tokens_of_words():
    batch, tokenizer = head_mirror.whole(WORDS), head_mirror.masked_tokenizer()
    data = rows(24, 2)
    for row, words in enumerate(data["words"]):
        tokens = tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][row])
        marked = [t for t, label in zip(tokens, batch.targets[row], strict=True) if label != -100]
        assert marked == ["a", *words[1:]]
        labels = batch.targets[row][batch.targets[row] != IGNORED]
        assert labels.tolist() == data["tags"][row]


def test_f1_of_words_is_that_of_scikit_learn():
    model, batch = WORDS.model(), head_mirror.whole(WORDS)
    counted = batch.targets != IGNORED
    given = model(**batch.inputs).logits.argmax(dim=2)[counted]
    expected = f1_score(batch.targets[counted], given, average="macro")
    assert evaluate(model, WORDS).metrics["macro_f1"] == pytest.approx(expected, abs=1e-6)


def test_hidden_tokens_depend_on_the_row_and_the_seed_alone():
    batch, alone = head_mirror.whole(HIDDEN), HIDDEN.split("test").batch(torch.tensor([7]))
    length = alone.targets.shape[1]
    assert torch.equal(batch.targets[7, :length], alone.targets[0])
    assert (HIDDEN.predictions(batch) >= 1).all()
    mask = head_mirror.masked_tokenizer().mask_token_id
    hidden = batch.targets != IGNORED
    assert (batch.inputs["input_ids"][hidden] == mask).all()
    assert not (batch.inputs["input_ids"][~hidden] == mask).any()
    other = replace(HIDDEN, targets=HiddenTokens(share=0.3, mask_seed=1))
    assert not torch.equal(head_mirror.whole(other).targets, batch.targets)
    more = replace(HIDDEN, targets=HiddenTokens(share=0.9))
    assert HIDDEN.predictions(head_mirror.whole(more)).sum() > 2 * HIDDEN.predictions(batch).sum()


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_is_the_models_own(name):
    task = TASKS[name]
    model, batch = task.model(), head_mirror.whole(task)
    with torch.no_grad():
        own = model(**batch.inputs, labels=batch.targets).loss
        ours = task.loss(task.forward(model, batch), batch.targets)
    assert float(ours) == pytest.approx(float(own), rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_calibration_counts_real_tokens(name):
    task = TASKS[name]
    layer = "bert.encoder.layer.0.intermediate.dense"
    found = collect(task.model(), [layer], TaskData(task, 4), full=False)[layer]
    calibration = task.split("calibration")
    masks = calibration.batch(torch.arange(len(calibration))).inputs["attention_mask"]
    assert not masks.all()
    assert found.count == int(masks.sum()) and not found.notes


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("method", [TruncatedSVD(rank=6), Quantization(bits=4)], ids=["svd", "rtn"])
def test_a_point_has_scores_with_their_errors(name, method):
    task = TASKS[name]
    record = lowrank.measure_point(task, method, norm="diagonal")
    first = next(iter(record["metrics"]))["name"]
    for metric in (first, "loss"):
        assert np.isfinite(record["compressed"][metric])
        assert record["standard_errors"]["compressed"][metric] > 0
    assert max(record["compressed"].get(name, 0) for name in ("kl", "output_error")) > 0


@pytest.mark.parametrize("name", TASKS)
def test_training_learns(name):
    task = TASKS[name]
    model = task.model()
    before = evaluate(model, task).metrics["loss"]
    Training(epochs=4, learning_rate=0.01, batch_size=8).train(model, task)
    assert evaluate(model, task).metrics["loss"] < before


BAD = HubRows("me/bad", "test")


@pytest.mark.parametrize(
    ("task", "changes", "error"),
    [
        (CLASSES, {"test": BAD}, "column 'label' has the class 3, and model 'me/classes' has 3"),
        (CLASSES, {"test": BAD, "targets": ClassTargets("hidden")}, "-1 marks hidden labels"),
        (CLASSES, {"targets": ClassTargets("kind")}, "has no column 'kind'; it has"),
        (
            CLASSES,
            {"inputs": TextInputs("label", max_length=9)},
            "must hold texts, and row 0",
        ),
        (CLASSES, {"inputs": TextInputs("sentence", max_length=64)}, "more than the 32 positions"),
        (CLASSES, {"pretrained": "me/bare"}, "no tokenizer of 'me/bare'"),
        (NUMBERS, {"targets": NumberTargets("sentence")}, "must hold finite numbers"),
        (NUMBERS, {"pretrained": "me/classes"}, "has 3 labels: it scores classes"),
        (WORDS, {"test": BAD}, "column 'words' has no words in row 2"),
        (WORDS, {"inputs": TextInputs("sentence", max_length=16)}, "need inputs that are words"),
        (
            WORDS,
            {"inputs": WordInputs("sentence", max_length=16)},
            "must hold lists of words",
        ),
        (WORDS, {"targets": WordClassTargets("label")}, "must hold lists of classes, and row 0"),
        (HIDDEN, {"pretrained": "me/unmasked"}, "has no mask: it is no masked language model"),
    ],
)
def test_bad_rows_and_processors_are_one_error(task, changes, error):
    with pytest.raises(ValueError, match=error):
        head_mirror.whole(replace(task, **changes))


def test_words_without_a_class_are_an_error(hub, tmp_path):
    bad = rows(2, 5)
    bad["tags"][1] = bad["tags"][1][:1]
    bad["words"][1] = ["a", "film", "is"]
    save(hub / "datasets" / "me" / "untagged", test=bad)
    with pytest.raises(ValueError, match="row 1 has more than 1 words"):
        head_mirror.whole(replace(WORDS, test=HubRows("me/untagged", "test")))


def test_an_encoder_and_decoder_has_the_scores_of_text_to_text(hub):
    folder = hub / "models" / "me" / "bart"
    text_mirror.save_bart(folder)
    validation = HubRows("me/texts", "train[30:]")
    task = replace(
        CLASSES,
        pretrained="me/bart",
        auto="AutoModelForSeq2SeqLM",
        train=HubRows("me/texts", "train[:30]"),
        targets=TextTargets("other", TranslationScores(), max_written=12, beams=2),
        validation=validation,
        validation_size=None,
    )
    task.check()
    other = TextToText(
        name="texts",
        architecture="bart",
        pretrained="me/bart",
        test=HubText("me/texts", "test", column="sentence"),
        train=HubText("me/texts", "train", column="sentence"),
        target="other",
        max_length=16,
        max_written=12,
        beams=2,
    )
    model = task.model()
    ours, theirs = evaluate(model, task).metrics, evaluate(model, other).metrics
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert [len(task.split(name)) for name in ("train", "validation")] == [30, 10]


def test_a_model_without_the_head_is_one_error():
    with pytest.raises(ValueError, match="lacks 2 weights of a BertForTokenClassification"):
        replace(WORDS, pretrained="me/masked").model()
    with pytest.raises(ValueError, match="no model for AutoModelForCTC of 'me/masked'"):
        replace(HIDDEN, auto="AutoModelForCTC").network()
    with pytest.raises(ValueError, match="auto='BertModel' must be such a class of transformers"):
        replace(HIDDEN, auto="BertModel").network()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"test": CLASSES.train}, "must differ"),
        ({"inputs": ClassTargets()}, "inputs=.* must be a ModelInputs"),
        ({"targets": TextInputs()}, "targets=.* must be a Targets"),
        ({"validation": HubRows("me/texts", "test[:3]")}, "of no effect beside validation"),
        ({"test": "me/texts"}, "test='me/texts' must be a HubRows"),
    ],
)
def test_bad_options_are_one_error(changes, error):
    with pytest.raises(ValueError, match=error):
        replace(CLASSES, **changes)
    for made in (
        lambda: HiddenTokens(share=0),
        lambda: TextInputs(max_length=0),
        lambda: HubRows("me/texts", ""),
    ):
        with pytest.raises(ValueError):
            made()
