"""Images and sounds beside texts: what is nearest, how it is fitted, and the published networks."""

import copy
import os
from dataclasses import replace

import mirrors
import numpy as np
import pytest
import text_mirror
import torch
import torch.nn.functional as F
from torch import nn

import lowrank
from lowrank.calibration.collect import collect
from lowrank.calibration.data import TaskData
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import (
    AudioClassification,
    Digits,
    HubClips,
    ImageClassification,
    PromptedClassification,
    Published,
    Training,
)

REAL_HUB = os.environ.get("LOWRANK_HUB", "")
WORDS = (*text_mirror.POSITIVE, *text_mirror.NEGATIVE, *text_mirror.NEUTRAL)
PROMPTS = [*(f"a {word} film" for word in WORDS), "is"]


class Wide(nn.Module):
    """Random features, to which a projection can be fitted."""

    def __init__(self, classes=10):
        super().__init__()
        self.first = nn.Linear(64, 96)
        self.out = nn.Linear(96, classes)

    def features(self, x):
        return F.relu(self.first(x.flatten(1)))

    def forward(self, x):
        return self.out(self.features(x))


TASK = PromptedClassification(
    name=None,
    architecture="wide_bert",
    base=ImageClassification(
        name=None,
        architecture="wide",
        source=Digits(test_size=90),
        builder=f"{__name__}:Wide",
        weights=None,
        validation_size=60,
        calibration_size=40,
    ),
    head="out",
    pretrained="me/bert",
    prompts=PROMPTS,
    penalty=1e-3,
    fitted=600,
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    text_mirror.save_bert(folder / "models" / "me" / "bert")
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


@pytest.fixture(scope="module")
def model(hub, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        mirrors.use(hub, patch)
        patch.setenv("LOWRANK_CACHE", str(tmp_path_factory.mktemp("models")))
        return TASK.model()


def whole(task):
    test = task.split("test")
    return test.batch(torch.arange(len(test)))


def test_scores_are_the_cosines_of_the_texts_with_padding(model):
    batch, encoder = whole(TASK), model.encoder
    tokens = text_mirror.word_tokenizer()(PROMPTS, padding=True, return_tensors="pt")
    real = tokens["attention_mask"]
    assert not real.all()
    states = encoder(tokens["input_ids"], attention_mask=real).last_hidden_state
    texts = (states * real[:, :, None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
    seen = model.projection(model.network.features(batch.only))
    expected = 20 * F.cosine_similarity(seen[:, None], texts[None], dim=2)
    torch.testing.assert_close(TASK.forward(model, batch), expected, rtol=1e-4, atol=1e-4)


def test_recall_is_the_share_of_a_class_among_as_many_nearest(model):
    batch = whole(TASK)
    scores, found = TASK.forward(model, batch), []
    for text in range(10):
        right = batch.targets == text
        nearest = scores[:, text].topk(int(right.sum())).indices
        found.append(float(right[nearest].float().mean()))
    metrics = evaluate(model, TASK, batch_size=32).metrics
    assert metrics["retrieval_recall"] == pytest.approx(np.mean(found), abs=1e-6)
    assert metrics["top1"] == pytest.approx(
        float((scores.argmax(dim=1) == batch.targets).float().mean())
    )


def test_the_projection_is_fitted_to_the_right_texts(model):
    found = evaluate(model, TASK).metrics
    assert found["top1"] > 0.8 and found["retrieval_recall"] > 0.5
    unfitted = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nn.init.normal_(unfitted.projection.weight)
    assert evaluate(unfitted, TASK).metrics["top1"] < 0.4
    assert not any(name.startswith("network.out") for name in model.state_dict())


def test_calibration_leaves_no_padding_among_the_prompts(model):
    layer = "encoder.encoder.layer.0.intermediate.dense"
    found = collect(model, [layer], TaskData(TASK, 20), full=False)[layer]
    tokens = sum(len(prompt.split()) + 2 for prompt in PROMPTS)
    assert found.count == 2 * tokens and not found.notes


@pytest.mark.parametrize("method", [TruncatedSVD(rank=6), Quantization(bits=3)], ids=["svd", "rtn"])
def test_a_point_has_both_directions(method):
    record = lowrank.measure_point(TASK, method, norm="diagonal")
    assert next(iter(record["metrics"]))["name"] == "top1"
    for name in ("top1", "top5", "retrieval_recall", "kl"):
        assert np.isfinite(record["compressed"][name])
    assert record["standard_errors"]["compressed"]["top1"] > 0


def test_training_goes_on_with_both_networks(model):
    trained = TASK.model().train()
    trained.encoder.eval()  # Without dropout, which random weights do not bear.
    before = evaluate(trained, TASK, "train").metrics["loss"]
    Training(epochs=6, learning_rate=1e-3, batch_size=64).train(trained, TASK)
    assert evaluate(trained, TASK, "train").metrics["loss"] < before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"head": "last"}, "an output layer head='last' after it; it has first, out"),
        ({"prompts": PROMPTS[:4]}, "prompts has 4 texts, and the network .* has 10 classes"),
        ({"pretrained": "me/none"}, "has no models/me/none"),
        ({"prompts": [*PROMPTS[:-1], "film " * 30]}, "the longest prompt=32 is more than the 16"),
        (
            {"base": replace(TASK.base, builder="torch.nn:Identity")},
            "have a method `features`",
        ),
    ],
)
def test_what_does_not_fit_is_one_error(changes, error):
    with pytest.raises(ValueError, match=error):
        replace(TASK, **changes).network()


def test_bad_options_are_one_error():
    for prompts in ("a film", ["a film", "a film"], ["a film", " "]):
        with pytest.raises(ValueError, match="must be two or more different texts"):
            replace(TASK, prompts=prompts)
    with pytest.raises(ValueError, match="base='digits' must be a Task"):
        replace(TASK, base="digits")


@pytest.mark.skipif(not REAL_HUB, reason="LOWRANK_HUB is not set")
def test_real_words_are_found_by_their_texts(monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    words = (
        "backward bed bird cat dog down eight five follow forward four go happy house learn left "
        "marvin nine no off on one right seven sheila six stop three tree two up visual wow yes "
        "zero"
    ).split()
    clips = HubClips("google/speech_commands", 16_000, 16_000, train="calibration")
    task = PromptedClassification(
        name=None,
        architecture="bc_resnet_2_minilm",
        base=AudioClassification(
            name=None,
            architecture="bc_resnet_2",
            source=clips,
            features="lowrank.tasks.spectrograms:keyword_mels",
            builder="lowrank.tasks.networks.bc_resnet:BCResNet",
            arguments={"num_classes": 35},
            weights=Published("re9ulus/bc-resnet-2"),
            validation_size=96,
            validation_from="test",
        ),
        head="head_conv",
        pretrained="sentence-transformers/all-MiniLM-L6-v2",
        prompts=words,
    )
    found = evaluate(task.model(), task).metrics
    assert found["top1"] > 0.75 and found["retrieval_recall"] > 0.7
