import os
from dataclasses import replace

import mirrors
import numpy as np
import pytest
import text_mirror
import torch
import torch.nn.functional as F

from lowrank.compression.compress import compress
from lowrank.decomposers import TruncatedSVD
from lowrank.model.batch import Batch
from lowrank.model.select import Select
from lowrank.point import evaluate
from lowrank.tasks import HubText, TextClassification
from lowrank.tasks.sentences import PADDING

REAL_HUB = os.environ.get("LOWRANK_HUB", "")
TASK = TextClassification(
    name="films",
    architecture="tiny",
    pretrained="me/bert",
    test=HubText("me/films", "test", column="sentence"),
    train=HubText("me/films", "train", column="sentence"),
    classes=3,
    max_length=16,
    penalty=0.1,
    validation_size=30,
    calibration_size=10,
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    text_mirror.save_bert(folder / "models" / "me" / "bert")
    text_mirror.save_rows(
        folder / "datasets" / "me" / "films",
        train=text_mirror.sentences(150, 3, seed=1),
        test=text_mirror.sentences(60, 3, seed=2),
    )
    text_mirror.save_rows(
        folder / "datasets" / "me" / "two",
        train=text_mirror.sentences(100, 2, seed=1),
        test=text_mirror.sentences(40, 2, seed=2),
    )
    for name, labels in (("hidden", [-1, 0]), ("empty", [0, 1])):
        content = {"sentence": ["good", ""], "label": labels}
        text_mirror.save_rows(folder / "datasets" / "me" / name, test=content)
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


@pytest.fixture(scope="module")
def model(hub, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWRANK_HUB", str(hub))
        patch.setenv("LOWRANK_CACHE", str(tmp_path_factory.mktemp("kept")))
        return TASK.model()


@torch.no_grad()
def plain_embedding(model, sentence: str) -> torch.Tensor:
    """Of one sentence, by the encoder alone."""
    from transformers import AutoModel, AutoTokenizer

    folder = os.environ["LOWRANK_HUB"] + "/models/me/bert"
    encoder = AutoModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(sentence, return_tensors="pt")
    mean = encoder(**tokens).last_hidden_state[0].mean(dim=0)
    return mean / mean.norm()


def test_embeddings_are_means_over_tokens_whatever_the_padding(model):
    split = TASK.split("test")
    texts = TASK.test.rows()
    lengths = (split.ids != PADDING).sum(dim=1)
    assert bool((lengths.diff() >= 0).all()) and lengths[0] < lengths[-1]
    rows = torch.tensor([0, 30, 59])
    with torch.no_grad():
        together, padded = model.embed(split.batch(rows).only), model.embed(split.ids[rows])
        alone = torch.cat([model.embed(split.batch(row[None]).only) for row in rows])
    order = sorted(range(60), key=lambda number: len(texts[number].split()))
    plain = torch.stack([plain_embedding(model, texts[order[row]]) for row in rows])
    for other in (padded, alone, plain):
        assert torch.allclose(together, other, atol=1e-5)
    raw = replace(TASK, normalize=False).model()
    with torch.no_grad():
        mean = raw.embed(split.batch(rows).only)
    assert torch.allclose(F.normalize(mean, dim=1), together, atol=1e-5)
    assert not torch.allclose(mean.norm(dim=1), torch.ones(3), atol=0.1)


def test_quality_does_not_depend_on_the_batches(model):
    measured = [evaluate(model, TASK, batch_size=size).metrics for size in (1, 7, 60)]
    for other in measured[1:]:
        assert other == pytest.approx(measured[0], abs=1e-5)
    assert measured[0]["top1"] > 0.5
    assert set(measured[0]) == {"top1", "macro_recall", "macro_f1", "loss"}


@torch.no_grad()
def embedded(task, model):
    train = task.split("train")
    return model.embed(train.ids).double(), train.labels


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_the_optimum_of_the_penalised_likelihood(classes):
    dataset = {2: "me/two", 3: "me/films"}[classes]
    task = replace(
        TASK,
        test=replace(TASK.test, dataset=dataset),
        train=replace(TASK.train, dataset=dataset),
        classes=classes,
    )
    model = task.model()
    embeddings, labels = embedded(task, model)
    weight = model.head.weight.detach().double().requires_grad_()
    bias = model.head.bias.detach().double().requires_grad_()
    loss = F.cross_entropy(embeddings @ weight.T + bias, labels, reduction="sum")
    # Of two classes scikit-learn penalises the difference of the two rows of weights.
    penalised = (weight[1] - weight[0])[None] if classes == 2 else weight
    (loss + task.penalty * penalised.square().sum() / 2).backward()
    for gradient in (weight.grad, bias.grad):
        assert gradient is not None and float(gradient.abs().max()) < 1e-3 * len(labels)


def test_the_head_is_fitted_once(monkeypatch, fresh_cache):
    first = TASK.model()
    kept = list((fresh_cache / "heads").glob("*.safetensors"))
    assert len(kept) == 1
    with monkeypatch.context() as patch:
        patch.setattr(TextClassification, "_fit", None)
        again = replace(TASK, seed=3).model()
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    for changed in ({"penalty": 1.0}, {"split_seed": 1}, {"normalize": False}, {"max_length": 3}):
        other = replace(TASK, **changed).model()
        assert not torch.equal(other.head.weight, first.head.weight)
    assert len(list((fresh_cache / "heads").glob("*.safetensors"))) == 5


def test_the_network_is_the_model_before_its_weights(model):
    network = TASK.network()
    network.load_state_dict(model.state_dict())
    batch = Batch(TASK.example(4))
    with torch.no_grad():
        ours, theirs = TASK.forward(network, batch), TASK.forward(model, batch)
        assert torch.equal(ours.logits, theirs.logits)
        assert torch.equal(ours.logits, network(batch.only))
    assert not network.training and not model.training
    chosen, _ = Select(include="encoder.*", kinds="Linear").split(network)
    # Query, key, value, output and two of the feed-forward part in each of two layers.
    assert len(chosen) == 12 and all("pooler" not in site.name for site in chosen)


def test_cosine_is_that_of_the_embeddings(model):
    dense = evaluate(model, TASK, batch_size=16)
    assert "cosine" not in dense.metrics
    same = evaluate(model, TASK, batch_size=16, reference=dense.outputs).metrics
    assert same == dense.metrics | {"flipped": 0, "kl": 0, "cosine": pytest.approx(1, abs=1e-12)}
    where = Select(include="encoder.*", kinds="Linear")
    small = compress(model, TruncatedSVD(rank=4), where, TASK.example()).model
    measured = evaluate(small, TASK, batch_size=16, reference=dense.outputs)
    ours, theirs = (
        torch.cat([embedding for _, embedding in e.outputs]).double().numpy()
        for e in (measured, dense)
    )
    dots = (ours * theirs).sum(1)
    expected = dots / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert measured.metrics["cosine"] == pytest.approx(expected.mean(), abs=1e-9)
    assert 0 < measured.metrics["cosine"] < 0.99


def test_the_splits_share_nothing():
    sizes = {name: len(TASK.split(name)) for name in ("train", "calibration", "validation", "test")}
    assert sizes == {"train": 120, "calibration": 10, "validation": 30, "test": 60}
    train, calibration = TASK.split("train"), TASK.split("calibration")
    assert torch.equal(calibration.ids, train.ids[:10])
    drawn = replace(TASK, calibration_seed=3).split("calibration")
    assert len(drawn) == 10 and not torch.equal(drawn.ids, calibration.ids)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    together = torch.cat([train.labels, TASK.split("validation").labels])
    assert torch.equal(together[order.argsort()], torch.tensor(TASK.train.labels("label")))
    with pytest.raises(ValueError, match="there is no split 'dev'"):
        TASK.split("dev")  # type: ignore[arg-type]


def test_padding_is_masked_and_examples_have_none():
    batch = next(TASK.split("train").batches(8))
    assert torch.equal(batch.real[0], batch.only >= 0) and batch.is_padded
    assert bool(batch.real[0][:, -1].any())
    (few,), (many,) = TASK.example(), TASK.example(100)
    assert len(few) == 1 and len(many) == 100 and bool((many >= 0).all())
    assert TASK.protocol()["longest"] == TASK.split("test").ids.shape[1] <= 11


def two(dataset="me/two", **changes):
    text = HubText(dataset, "test", column="sentence")
    return replace(TASK, **{"test": text, "classes": 2} | changes)


def test_a_length_beyond_the_positions_is_found_without_data(monkeypatch):
    monkeypatch.setattr(HubText, "rows", lambda self: pytest.fail("the text was read"))
    with pytest.raises(ValueError, match="max_length=17 is more than the 16 positions"):
        replace(TASK, max_length=17).network()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (two("me/hidden"), "class number -1; the labels of this split may be hidden"),
        (replace(TASK, classes=2), "class number 2, and classes=2"),
        (two(label="stars"), "no column 'stars'; it has"),
        (two(label="sentence"), "must hold class numbers, and has"),
        (replace(TASK, max_length=17), "max_length=17 is more than the 16 positions"),
        (replace(TASK, calibration_size=121), "do not fit the 150 sentences"),
        (replace(TASK, pretrained="me/none"), "no models/me/none; it has me/bert"),
    ],
)
def test_what_does_not_fit_is_an_error(task, message):
    with pytest.raises(ValueError, match=message):
        task.example()
        task.split("train")


def test_a_class_without_examples_is_an_error():
    two = HubText("me/two", "train", column="sentence")
    with pytest.raises(ValueError, match=r"has examples of classes \[0, 1\] only"):
        replace(TASK, train=two).model()


def test_a_sentence_without_tokens_is_an_error(tmp_path):
    from tokenizers import processors

    text_mirror.save_bert(tmp_path)
    tokenizer = text_mirror.word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", special_tokens=[]
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the sentence in row 1 has no tokens"):
        two("me/empty", pretrained=str(tmp_path)).example()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "classes=1 must be at least 2"),
        ({"max_length": 0}, "max_length=0 must be at least 1"),
        ({"validation_size": 0}, "validation_size=0 must be at least 1"),
        ({"calibration_size": 0}, "calibration_size=0 must be at least 1"),
        ({"penalty": 0}, "penalty=0 must be above 0"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"test": TASK.train}, "test and train are the same"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TASK, **changes)


@pytest.mark.skipif("LOWRANK_HUB" not in os.environ, reason="needs the data mirror")
def test_the_reference_case(monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    task = TextClassification(
        name="sst2",
        architecture="minilm_l6",
        pretrained="sentence-transformers/all-MiniLM-L6-v2",
        test=HubText("stanfordnlp/sst2", "validation", column="sentence"),
        train=HubText("stanfordnlp/sst2", "train[:700]", column="sentence"),
        classes=2,
        validation_size=100,
    )
    model, protocol = task.model(), task.protocol()
    assert (protocol["test_sentences"], protocol["calibration_sentences"]) == (872, 256)
    batch = next(task.split("test").batches(300))
    inputs, targets = batch.only, batch.targets
    with torch.no_grad():
        assert float((model(inputs).argmax(1) == targets).float().mean()) > 0.7
    chosen, _ = Select(include="encoder.*", kinds="Linear").split(model)
    assert len(chosen) == 36
