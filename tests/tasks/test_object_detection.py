"""Detectors: what counts, what is judged, and the published FastestDet."""

import contextlib
import io
import os
from dataclasses import replace

import mirrors
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Picture
from torch import nn

import lowrank
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import GridHead, HubObjects, ObjectDetection, Published, Trained, Training, hub
from lowrank.tasks.average_precision import _judge, average_precisions, matches, precisions_without
from lowrank.tasks.boxes import Boxes
from lowrank.tasks.object_sources import Objects

pytest.importorskip("pycocotools")
REAL_HUB = os.environ.get("LOWRANK_HUB", "")
CLASSES = 3
TASK = ObjectDetection(
    name="blocks",
    architecture="grid",
    source=HubObjects("me/blocks", 32, 32),
    classes=CLASSES,
    inputs="lowrank.tasks.image_inputs:bgr_inputs",
    builder=f"{__name__}:Grid",
    weights=None,
    calibration_size=4,
)
LEARNT = Trained(Training(epochs=40, learning_rate=0.01, batch_size=8))


class Grid(nn.Module):
    """Four by four cells."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.second = nn.Conv2d(16, 32, 5, stride=4, padding=2)
        self.last = nn.Conv2d(32, 5 + classes, 3, padding=1)

    def forward(self, images):
        found = self.last(self.second(self.first(images).relu()).relu())
        objectness, numbers, classes = found.split([1, 4, found.shape[1] - 5], dim=1)
        return torch.cat([objectness.sigmoid(), numbers, classes.softmax(dim=1)], dim=1)


def photos(count, seed):
    """Blocks of three colours on grey, one or two in each photo of 64 by 48 pixels."""
    random, rows = np.random.default_rng(seed), {"image": [], "objects": []}
    colours = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230]])
    for _ in range(count):
        pixels = random.integers(90, 130, (48, 64, 3))
        boxes, labels = [], []
        for place in range(int(random.integers(1, 3))):
            left, top = 32 * place + int(random.integers(12)), int(random.integers(30))
            wide, high, label = *map(int, random.integers(8, 19, 2)), int(random.integers(CLASSES))
            pixels[top : top + high, left : left + wide] = colours[label]
            boxes.append([left, top, min(wide, 64 - left), min(high, 48 - top)])
            labels.append(label)
        rows["image"].append(Picture.fromarray(pixels.astype(np.uint8)))
        rows["objects"].append({"bbox": boxes, "category": labels})
    return rows


def one(box, label=0):
    """One photo with such a box."""
    return {"image": photos(1, 0)["image"], "objects": [{"bbox": [box], "category": [label]}]}


def save(folder, **splits):
    (folder / "data").mkdir(parents=True)
    objects = {"bbox": List(List(Value("float64"))), "category": List(Value("int64"))}
    for split, rows in splits.items():
        made = Dataset.from_dict(rows, Features(image=Image(), objects=objects))
        made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    data = folder / "datasets" / "me"
    save(data / "blocks", train=photos(40, 1), validation=photos(6, 2), test=photos(10, 3))
    save(data / "outside", test=one([50, 0, 20, 10]))
    save(data / "before", test=one([-3, 0, 20, 10]))
    save(data / "empty", test=one([5, 5, 0, 10]))
    save(data / "short", test=one([5, 5, 10]))
    save(data / "unnamed", test=one([5, 5, 9, 9], -1))
    save(data / "many", train=one([5, 5, 9, 9], 5), validation=photos(1, 1), test=photos(2, 2))
    return folder


@pytest.fixture(autouse=True)
def mirror(mirrored, monkeypatch):
    mirrors.use(mirrored, monkeypatch)


def random_boxes(images, seed, classes=CLASSES):
    """Objects, and boxes near them and elsewhere."""
    random = np.random.default_rng(seed)
    low = torch.from_numpy(random.random((images, 6, 2))) * 0.7
    corners = torch.cat([low, low + 0.1 + 0.2 * torch.from_numpy(random.random(low.shape))], dim=2)
    labels = torch.from_numpy(random.integers(-1, classes, (images, 6)))
    sizes = torch.from_numpy(random.integers(30, 90, (images, 2))).double()
    found = []
    for image in range(images):
        near = corners[image] + torch.from_numpy(0.02 * random.standard_normal((6, 4)))
        guess = torch.from_numpy(random.integers(0, classes, 6))
        named = torch.where(torch.from_numpy(random.random(6) < 0.7), labels[image], guess)
        scores = torch.from_numpy(random.random(12)).round(decimals=1)
        both = torch.cat([near, near.flip(0) + 0.05])
        found.append(Boxes(both, scores, torch.cat([named.clamp(min=0), guess])))
    return found, Objects(corners, labels, sizes)


def test_average_precision_is_that_of_pycocotools():
    found, objects = random_boxes(9, 0, classes=5)
    judge = _judge(found, objects, 5)
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()
        judge.accumulate()
    # Thresholds, recalls, classes, one range of areas, one number of boxes.
    precision = judge.eval["precision"][:, :, :, 0, 0]
    theirs = np.where(precision > -1, precision, np.nan).mean(axis=1).T
    ours = average_precisions(matches(found, objects, 5))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert 0.05 < np.nanmean(ours) < 0.95


def test_without_an_image_is_that_of_the_others():
    found, objects = random_boxes(5, 1, classes=30)
    without = precisions_without(matches(found, objects, 30))
    for image in range(5):
        rest = [number for number in range(5) if number != image]
        others = Objects(*(values[rest] for values in objects))
        alone = average_precisions(matches([found[number] for number in rest], others, 30))
        np.testing.assert_allclose(without[image], alone, atol=1e-12)
    assert np.isnan(without).any()


def test_metrics_of_batches_are_those_of_all_images():
    model = TASK.model()
    found = [evaluate(model, TASK, batch_size=size).metrics for size in (3, 10)]
    assert found[0] == pytest.approx(found[1])


def test_the_objects_are_those_of_the_files():
    found = TASK.source.read("test")
    assert found.pixels.shape == (10, 3, 32, 32)
    for row, (objects, size) in enumerate(
        zip(photos(10, 3)["objects"], found.objects.sizes, strict=True)
    ):
        count = len(objects["bbox"])
        assert size.tolist() == [64, 48]
        assert found.objects.classes[row].tolist()[:count] == objects["category"]
        assert (found.objects.classes[row][count:] == -1).all()
        left, top, wide, high = objects["bbox"][0]
        expected = [left / 64, top / 48, (left + wide) / 64, (top + high) / 48]
        assert found.objects.corners[row, 0].tolist() == pytest.approx(expected)


def test_distance_is_0_only_to_the_same_outputs():
    head, model = GridHead(), TASK.model()
    batch = TASK.split("test").batch(torch.arange(4))
    with torch.no_grad():
        outputs = TASK.forward(model, batch)
    assert head.distances(outputs, outputs).abs().max() < 1e-12
    for channel in (0, 1, 3, 6):
        other = outputs.clone()
        other[:, channel] = other[:, channel] * 0.8
        other[:, 5:] /= other[:, 5:].sum(dim=1, keepdim=True)
        other.requires_grad_()
        apart = head.distances(other, outputs)
        assert (apart > 1e-5).all()
        [slope] = torch.autograd.grad(apart.sum(), other)
        assert torch.isfinite(slope).all() and slope.any()


def test_the_loss_of_the_right_outputs_is_least():
    objects = Objects(
        torch.tensor([[[0.25, 0.5, 0.5, 0.75], [0.0, 0.0, 0.0, 0.0]]], dtype=torch.float64),
        torch.tensor([[1, -1]]),
        torch.tensor([[64.0, 48.0]], dtype=torch.float64),
    )
    maps = torch.zeros(1, 5 + CLASSES, 4, 4)
    maps[:, 5:] = 1 / CLASSES
    wrong = GridHead().losses(maps, objects)
    # Its centre lies in row 2, column 1, at the middle of the cell.
    maps[0, 0, 2, 1], maps[0, 1:3, 2, 1] = 1.0, float(np.arctanh(0.5))
    maps[0, 3:5, 2, 1] = float(np.log(0.25 / 0.75))
    maps[0, 5:, 2, 1] = torch.tensor([0.0, 1.0, 0.0])
    assert float(wrong) > 1 and float(GridHead().losses(maps, objects)) < 1e-4


@pytest.mark.parametrize(
    "method", [TruncatedSVD(rank=12), Quantization(bits=5)], ids=["svd", "rtn"]
)
def test_a_point_has_scores_with_their_errors(method):
    task = replace(TASK, weights=LEARNT, head=GridHead(threshold=0.01))
    record = lowrank.measure_point(task, method, norm="diagonal")
    for name in ("ap50", "ap", "loss", "distance"):
        assert np.isfinite(record["compressed"][name])
        assert record["standard_errors"]["compressed"][name] > 0
    assert record["compressed"]["distance"] > 0


def test_training_learns_the_blocks():
    assert evaluate(TASK.model(), TASK).metrics["ap50"] < 0.1
    task = replace(TASK, weights=LEARNT)
    assert evaluate(task.model(), task).metrics["ap50"] > 0.4


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (
            "outside",
            "row 0 of split 'test' .* box .50.0, 0.0, 20.0, 10.0., outside its image of 64",
        ),
        ("before", "box .-3.0, 0.0, 20.0, 10.0., outside its image"),
        ("empty", "the box .5.0, 5.0, 0.0, 10.0.: it must be .left, top, width, height. > 0"),
        ("short", "the box .5.0, 5.0, 10.0.: it must be"),
        ("unnamed", "the classes .-1.: they must be numbers from 0"),
    ],
)
def test_bad_boxes_are_one_error(name, error):
    with pytest.raises(ValueError, match=error):
        HubObjects(f"me/{name}", 32, 32).read("test")


def test_bad_options_are_one_error(monkeypatch):
    with pytest.raises(ValueError, match="boxes of split 'train' of 'me/many' have class 5, and"):
        replace(TASK, source=HubObjects("me/many", 32, 32)).check()
    with pytest.raises(ValueError, match="has no field 'class'; it has .'bbox', 'category'"):
        replace(TASK.source, label="class").read("test")
    with pytest.raises(ValueError, match="must be three splits that do not overlap"):
        HubObjects("me/blocks", 32, 32, train="test")
    with pytest.raises(ValueError, match="of 3 classes it must be .batch, 8, height, width"):
        replace(TASK, arguments={"classes": 7}).check()
    with pytest.raises(ValueError, match="more than the 40 images"):
        replace(TASK, calibration_size=41).split("calibration")
    with pytest.raises(ValueError, match="head=None must be a DetectorHead"):
        replace(TASK, head=None)
    with pytest.raises(ValueError, match=r"overlap=2 must lie in \[0, 1\]"):
        GridHead(overlap=2)
    monkeypatch.setattr("lowrank.files.extras._is_installed", lambda name: name != "pycocotools")
    with pytest.raises(ValueError, match=r"pip install 'lowrank\[detection\]'"):
        replace(TASK)


@pytest.mark.skipif(not REAL_HUB, reason="LOWRANK_HUB is not set")
def test_the_published_network_finds_the_objects_of_coco(monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    split = "validation"
    source = HubObjects(
        "lightly-ai/coco128_yolo", 352, 352, f"{split}[96:]", f"{split}[80:96]", f"{split}[:80]",
        whole=split,
    )  # fmt: skip
    task = ObjectDetection(
        name=None,
        architecture="fastestdet",
        source=source,
        classes=80,
        inputs="lowrank.tasks.image_inputs:bgr_inputs",
        builder="lowrank.tasks.networks.fastestdet:FastestDet",
        arguments={"num_classes": 80},
        weights=Published("dog-qiuqiu/fastestdet-coco"),
    )
    whole = task.whole_test()
    assert whole is not None and len(whole) == 128
    found = evaluate(task.model(), task, whole).metrics
    assert [round(100 * found[name], 2) for name in ("ap50", "ap")] == [35.63, 19.10]
    assert hub.load_split(source.dataset, source.test, None, None).num_rows == len(
        task.split("test")
    )
