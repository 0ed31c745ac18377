"""Models of transformers that find objects: their loss, what they are judged by, bad boxes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value
from head_mirror import whole
from PIL import Image as Picture
from text_mirror import save
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessorPil,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessorPil,
)

import lowrank
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import BoxTargets, HubRows, ImageInputs, Training, TransformersTask

NAMES = ["red", "green", "blue"]
TASK = TransformersTask(
    name="blocks",
    architecture="yolos",
    pretrained="me/yolos",
    auto="AutoModelForObjectDetection",
    test=HubRows("me/blocks", "test"),
    train=HubRows("me/blocks", "train"),
    inputs=ImageInputs(),
    targets=BoxTargets(),
    validation_size=4,
    calibration_size=8,
)
DETR = replace(TASK, architecture="detr", pretrained="me/detr")
FOCAL = replace(TASK, architecture="rt_detr", pretrained="me/focal")
TASKS = {"yolos": TASK, "detr": DETR, "focal": FOCAL}


def rows(count, seed, sizes=((48, 40),)):
    """Grey images with up to two blocks, the colour says the class."""
    random, made = np.random.default_rng(seed), {"image": [], "objects": []}
    for number in range(count):
        width, height = sizes[number % len(sizes)]
        pixels = random.integers(100, 120, (height, width, 3))
        boxes, classes = [], random.integers(3, size=number % 3).tolist()
        for place, label in enumerate(classes):
            left, top = (int(random.integers(1, 6)) + 20 * place, int(random.integers(1, 20)))
            wide, high = (int(number) for number in random.integers(8, 14, 2))
            pixels[top : top + high, left : left + wide] = 250 * np.eye(3)[label]
            boxes.append([float(number) for number in (left, top, wide, high)])
        made["image"].append(Picture.fromarray(pixels.astype(np.uint8)))
        made["objects"].append({"bbox": boxes, "category": classes})
    return made


def write(folder, names=NAMES, **splits):
    folder.mkdir(parents=True)
    label = Value("int64") if names is None else ClassLabel(names=names)
    objects = {"bbox": Sequence(Sequence(Value("float32"))), "category": Sequence(label)}
    for name, columns in splits.items():
        data = Dataset.from_dict(columns, Features(image=Image(), objects=objects))
        data.to_parquet(str(folder / f"{name}.parquet"))


def yolos():
    return YolosConfig(
        image_size=[32, 32],
        patch_size=8,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_detection_tokens=5,
        initializer_range=0.3,
        id2label=dict(enumerate(NAMES)),
    )


def detr():
    return DetrConfig(
        backbone_config={
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 8],
            "depths": [1, 1],
            "out_features": ["stage2"],
        },
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_queries=5,
        init_std=0.5,
        dropout=0.0,
        id2label=dict(enumerate(NAMES)),
    )


def focal():
    """Each class has a probability of its own, and none is that of no object."""
    return RTDetrConfig(
        backbone_config={
            "model_type": "rt_detr_resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 8, 8, 8],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_features": ["stage2", "stage3", "stage4"],
        },
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 8, 8],
        feat_strides=[8, 16, 32],
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_n_points=2,
        num_queries=5,
        num_denoising=4,
        initializer_range=0.3,
        id2label=dict(enumerate(NAMES)),
    )


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    models, data = folder / "models" / "me", folder / "datasets" / "me"
    square = {"height": 32, "width": 32}
    save(models / "yolos", YolosForObjectDetection, yolos(), YolosImageProcessorPil(size=square))
    free = {"shortest_edge": 32, "longest_edge": 64}
    save(models / "free", YolosForObjectDetection, yolos(), YolosImageProcessorPil(size=free))
    save(models / "bare", YolosForObjectDetection, yolos())
    save(models / "detr", DetrForObjectDetection, detr(), DetrImageProcessorPil(size=free))
    wide = {"height": 64, "width": 64}
    save(models / "focal", RTDetrForObjectDetection, focal(), RTDetrImageProcessorPil(size=wide))
    write(data / "blocks", train=rows(20, 1), test=rows(9, 2))
    write(data / "sizes", test=rows(4, 2, sizes=((48, 40), (40, 60))))
    turned = rows(9, 2)
    for row in turned["objects"]:
        row["category"] = [2 - number for number in row["category"]]
    write(data / "turned", names=NAMES[::-1], test=turned)
    bad = {
        "outside": ([40.0, 5.0, 20.0, 10.0], 0),
        "empty": ([5.0, 5.0, 0.0, 10.0], 0),
        "many": ([5.0, 5.0, 10.0, 10.0], 3),
        "hidden": ([5.0, 5.0, 10.0, 10.0], -1),
    }
    for name, (box, label) in bad.items():
        made = rows(3, 3)
        made["objects"][1] = {"bbox": [box], "category": [label]}
        write(data / name, names=None, test=made)
    return folder


def test_boxes_are_those_that_the_image_processor_reads_in_pixels(hub):
    model, batch = TASK.model(), whole(TASK)
    found = TASK.predict(model, batch).found
    outputs = model(pixel_values=batch.inputs["pixel_values"])
    read = YolosImageProcessorPil().post_process_object_detection(
        outputs, threshold=0.0, target_sizes=[(40, 48)] * 9
    )
    for image, one in enumerate(read):
        pixels = found.corners[image] * torch.tensor([48, 40, 48, 40])
        torch.testing.assert_close(pixels, one["boxes"])
        assert torch.equal(found.classes[image], one["labels"])


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_is_the_models_own_of_labels_by_the_processor(name):
    task = TASKS[name]
    model, test = task.model(), task.split("test")
    data = task.test.read()
    batch = test.batch(torch.tensor([2]))
    objects = [
        {"bbox": box, "category_id": label, "area": 1.0, "iscrowd": 0}
        for box, label in zip(*data[2]["objects"].values(), strict=True)
    ]
    given = task._pretrained.image_processor(
        images=[data[2]["image"].convert("RGB")],
        annotations=[{"image_id": 0, "annotations": objects}],
        return_tensors="pt",
    )
    with torch.no_grad():
        own = model(pixel_values=given["pixel_values"], labels=given["labels"]).loss
        ours = task.loss(task.forward(model, batch), batch.targets)
    assert float(ours) == pytest.approx(float(own), rel=1e-5)


def test_scores_do_not_depend_on_what_runs_beside():
    """Images of several sizes are padded, and DETR is given which pixels are real."""
    task = replace(DETR, test=HubRows("me/sizes", "test"))
    model = task.model()
    together, test = whole(task), task.split("test")
    assert not together.inputs["pixel_mask"].all()
    boxes = task.forward(model, together).pred_boxes
    alone = task.forward(model, test.batch(torch.tensor([0]))).pred_boxes
    # Convolutions see the border, and bilinear masks are of whole cells.
    assert (boxes[0] - alone[0]).abs().max() < 0.2


@pytest.mark.parametrize("name", TASKS)
def test_the_distance_is_none_to_itself_and_some_to_another(name):
    task = TASKS[name]
    model, batch = task.model(), whole(task)
    with torch.no_grad():
        dense = task.forward(model, batch)
    assert float(task.distance(dense, dense, batch)) == pytest.approx(0, abs=1e-6)
    other = task.forward(lowrank.compress(task.model(), Quantization(bits=3)).model, batch)
    distance = task.distance(other, dense, batch)
    assert float(distance.detach()) > 1e-4
    distance.backward()


def test_classes_go_by_the_names_of_the_dataset():
    turned = replace(TASK, test=HubRows("me/turned", "test"))
    assert torch.equal(whole(turned).targets.classes, whole(TASK).targets.classes)


@pytest.mark.parametrize("name", ["yolos", "detr"])
@pytest.mark.parametrize("method", [TruncatedSVD(rank=4), Quantization(bits=3)], ids=["svd", "rtn"])
def test_a_point_has_scores_with_their_errors(name, method):
    record = lowrank.measure_point(TASKS[name], method, norm="diagonal")
    for metric in ("ap50", "ap", "distance"):
        assert np.isfinite(record["compressed"][metric])
        assert record["standard_errors"]["compressed"][metric] >= 0
    assert np.isfinite(record["compressed"]["loss"]) and record["compressed"]["distance"] > 0


@pytest.mark.parametrize("name", TASKS)
def test_training_learns(name):
    task = TASKS[name]
    model = task.model()
    before = evaluate(model, task, "train").metrics["loss"]
    Training(epochs=4, learning_rate=0.002, batch_size=8).train(model, task)
    assert evaluate(model, task, "train").metrics["loss"] < before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"test": HubRows("me/outside", "test")}, "row 1 .*outside its image of 48 × 40 pixels"),
        ({"test": HubRows("me/empty", "test")}, "row 1 has the box .*: it must be .left, top"),
        ({"test": HubRows("me/many", "test")}, "'objects' has the class 3, and model 'me/yolos'"),
        ({"test": HubRows("me/hidden", "test")}, "the class -1, .*-1 marks hidden labels"),
        ({"pretrained": "me/bare"}, "no image processor of 'me/bare'"),
        (
            {"dtype": "float16"},
            "'me/yolos' matches boxes in float32 alone, and its dtype is float16",
        ),
        ({"targets": BoxTargets("things")}, "no column 'things'"),
        ({"targets": BoxTargets("image")}, "must hold 'bbox' and 'category' of objects, and row 0"),
    ],
)
def test_bad_boxes_and_processors_are_one_error(changes, error):
    with pytest.raises(ValueError, match=error):
        whole(replace(TASK, **changes))


def test_padding_that_a_model_cannot_tell_is_refused():
    task = replace(TASK, pretrained="me/free", test=HubRows("me/sizes", "test"))
    with pytest.raises(ValueError, match="YolosForObjectDetection does not take which of their"):
        evaluate(task.model(), task)
