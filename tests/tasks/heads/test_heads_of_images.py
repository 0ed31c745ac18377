"""Models of transformers for images: classes, masks, prompts and captions."""

from dataclasses import replace

import head_mirror
import numpy as np
import pytest
import text_mirror
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture
from sklearn.metrics import jaccard_score
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CLIPConfig,
    CLIPModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTForImageClassification,
)

import lowrank
from lowrank.calibration.collect import collect
from lowrank.calibration.data import TaskData
from lowrank.decomposers import Quantization, TruncatedSVD
from lowrank.point import evaluate
from lowrank.tasks import (
    ClassTargets,
    HubRows,
    ImageInputs,
    MaskTargets,
    PromptTargets,
    TextTargets,
    Training,
    TransformersTask,
)
from lowrank.tasks.class_metrics import IGNORED

NAMES = ("good", "bad film", "a")
CLASSES = TransformersTask(
    name="colours",
    architecture="vit",
    pretrained="me/classes",
    auto="AutoModelForImageClassification",
    test=HubRows("me/images", "test"),
    train=HubRows("me/images", "train"),
    inputs=ImageInputs(),
    targets=ClassTargets(),
    validation_size=4,
    calibration_size=8,
)
MASKS = replace(
    CLASSES,
    name="masks",
    architecture="segformer",
    pretrained="me/masks",
    auto="AutoModelForSemanticSegmentation",
    targets=MaskTargets("mask"),
)
PROMPTS = replace(
    CLASSES,
    name="prompts",
    architecture="clip",
    pretrained="me/clip",
    auto="AutoModelForZeroShotImageClassification",
    targets=PromptTargets(NAMES, prompt="a {} film"),
)
CAPTIONS = replace(
    CLASSES,
    name="captions",
    architecture="vit_bert",
    pretrained="me/captions",
    auto="AutoModelForImageTextToText",
    targets=TextTargets("caption", max_written=8),
)
TASKS = {"classes": CLASSES, "masks": MASKS, "prompts": PROMPTS, "captions": CAPTIONS}


def rows(count, seed, size=(20, 24), most=3):
    """Images whose colour says the class of a pixel, the class of the image that of the first."""
    random = np.random.default_rng(seed)
    made = {"image": [], "mask": [], "label": [], "caption": []}
    for _ in range(count):
        coarse = random.integers(most, size=(size[0] // 4, size[1] // 4))
        mask = np.kron(coarse, np.ones((4, 4), dtype=int))
        colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]])
        pixels = colours[mask % 3] + random.integers(-25, 25, (*size, 3))
        mask[:2] = 255
        made["image"].append(Picture.fromarray(pixels.clip(0, 255).astype(np.uint8)))
        made["mask"].append(Picture.fromarray(mask.astype(np.uint8)))
        made["label"].append(int(coarse[0, 0]) % 3)
        made["caption"].append(" ".join(text_mirror.POSITIVE[: 1 + coarse[0, 0] % 3]))
    return made


def save(folder, **splits):
    folder.mkdir(parents=True)
    names = ClassLabel(names=["first", "second", "third"])
    features = Features(image=Image(), mask=Image(), label=names, caption=Value("string"))
    for name, columns in splits.items():
        Dataset.from_dict(columns, features).to_parquet(str(folder / f"{name}.parquet"))


def segformer():
    return SegformerConfig(
        num_labels=3,
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        initializer_range=0.3,
    )


def clip():
    text = {
        "vocab_size": len(text_mirror.word_tokenizer()),
        "max_position_embeddings": 8,
        "eos_token_id": 3,
        "bos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {"image_size": 16, "patch_size": 8}
    shared = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    # Large, so that the texts are not alike.
    options = {"projection_dim": 8, "initializer_factor": 10.0}
    return CLIPConfig(text_config=text | shared, vision_config=vision | shared, **options)


def captioner():
    decoder = BertConfig(
        vocab_size=len(text_mirror.word_tokenizer()),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.5,
        is_decoder=True,
        add_cross_attention=True,
    )
    assert BertLMHeadModel  # The decoder that transformers takes of this config.
    encoder = head_mirror.vit_config()
    made = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    made.decoder_start_token_id, made.pad_token_id, made.eos_token_id = 2, 0, 3
    return made


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    models, tokenizer = folder / "models" / "me", text_mirror.word_tokenizer()
    processor = head_mirror.image_processor()
    kinds = head_mirror.vit_config(num_labels=3)
    text_mirror.save(models / "classes", ViTForImageClassification, kinds, processor)
    text_mirror.save(models / "bare", ViTForImageClassification, kinds)
    text_mirror.save(
        models / "masks",
        SegformerForSemanticSegmentation,
        segformer(),
        SegformerImageProcessorPil(size={"height": 16, "width": 16}),
    )
    text_mirror.save(models / "clip", CLIPModel, clip(), processor, tokenizer)
    text_mirror.save(
        models / "captions", VisionEncoderDecoderModel, captioner(), processor, tokenizer
    )
    data = folder / "datasets" / "me"
    save(data / "images", train=rows(24, 1), test=rows(10, 2))
    save(data / "many", test=rows(6, 3, most=5))
    other = rows(3, 4)
    other["mask"] = rows(3, 4, size=(20, 20))["mask"]
    other["caption"][1] = "  "
    save(data / "other", test=other)
    coloured = rows(3, 5)
    coloured["mask"] = coloured["image"]
    save(data / "coloured", test=coloured)
    return folder


def test_inputs_are_those_of_the_models_own_processor():
    made = rows(10, 2)["image"]
    expected = head_mirror.image_processor()(made, return_tensors="pt")["pixel_values"]
    assert torch.equal(head_mirror.whole(CLASSES).inputs["pixel_values"], expected)


def test_scores_of_masks_are_those_of_scikit_learn():
    model, batch = MASKS.model(), head_mirror.whole(MASKS)
    assert batch.targets.shape == (10, 16, 16)
    given = model(**batch.inputs).logits
    large = torch.nn.functional.interpolate(given, size=(16, 16), mode="bilinear")
    counted = batch.targets != IGNORED
    assert not counted.all()
    pair = batch.targets[counted], large.argmax(dim=1)[counted]
    found = evaluate(model, MASKS, batch_size=4).metrics
    accuracy = float((pair[0] == pair[1]).float().mean())
    iou = jaccard_score(*pair, labels=[0, 1, 2], average="macro")
    assert found["mean_iou"] == pytest.approx(iou, abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_scores_of_prompts_are_the_models_own_with_padding():
    model, batch = PROMPTS.model(), head_mirror.whole(PROMPTS)
    texts = [f"a {name} film" for name in NAMES]
    tokens = text_mirror.word_tokenizer()(texts, padding=True, return_tensors="pt")
    given = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    assert not given["attention_mask"].all()
    own = model(**given, **batch.inputs).logits_per_image
    torch.testing.assert_close(PROMPTS.forward(model, batch), own, rtol=1e-4, atol=1e-4)


def test_calibration_leaves_the_padding_of_prompts_out():
    layer = "text_model.encoder.layers.0.mlp.fc1"
    found = collect(PROMPTS.model(), [layer], TaskData(PROMPTS, 8), full=False)[layer]
    lengths = [len(f"a {name} film".split()) + 2 for name in NAMES]
    batches = found.count / sum(lengths)
    assert batches == int(batches) and not found.notes


def test_the_loss_is_the_models_own():
    for task in (CLASSES, MASKS, CAPTIONS):
        model, batch = task.model(), head_mirror.whole(task)
        labels = batch.targets if isinstance(batch.targets, torch.Tensor) else batch.targets.ids
        ignored = 255 if task is MASKS else IGNORED
        with torch.no_grad():
            own = model(
                pixel_values=batch.inputs["pixel_values"],
                labels=labels.masked_fill(labels == IGNORED, ignored),
            ).loss
            ours = task.loss(task.forward(model, batch), batch.targets)
        assert float(ours) == pytest.approx(float(own), rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("method", [TruncatedSVD(rank=4), Quantization(bits=3)], ids=["svd", "rtn"])
def test_a_point_has_scores_with_their_errors(name, method):
    record = lowrank.measure_point(TASKS[name], method, norm="diagonal")
    first = next(iter(record["metrics"]))["name"]
    for metric in (first, "loss", "kl"):
        assert np.isfinite(record["compressed"][metric])
        assert record["standard_errors"]["compressed"][metric] >= 0
    assert record["compressed"]["kl"] > 0


@pytest.mark.parametrize("name", TASKS)
def test_training_learns(name):
    task = TASKS[name]
    model = task.model()
    before = evaluate(model, task, "train").metrics["loss"]
    Training(epochs=4, learning_rate=0.003, batch_size=5).train(model, task)
    assert evaluate(model, task, "train").metrics["loss"] < before


@pytest.mark.parametrize(
    ("task", "changes", "error"),
    [
        (MASKS, {"test": HubRows("me/many", "test")}, "the mask in row 0 has class 4, and model"),
        (MASKS, {"test": HubRows("me/other", "test")}, "row 0 has an image of .24, 20. and a mask"),
        (MASKS, {"test": HubRows("me/coloured", "test")}, "masks of one grey value for each class"),
        (CAPTIONS, {"test": HubRows("me/other", "test")}, "the text in row 1 is empty"),
        (CAPTIONS, {"targets": TextTargets("caption", max_written=3)}, "more than max_written=3"),
        (CLASSES, {"inputs": ImageInputs("label")}, "column 'label' must hold images, and row 0"),
        (CLASSES, {"pretrained": "me/bare"}, "no image processor of 'me/bare'"),
        (PROMPTS, {"targets": PromptTargets(NAMES[:2])}, "which is none of the 2 classes"),
        (PROMPTS, {"pretrained": "me/classes"}, "no tokenizer of 'me/classes'"),
        (
            PROMPTS,
            {"targets": PromptTargets(NAMES, prompt="a {}" + " film" * 9)},
            "the longest prompt=14 is more than the 8 positions",
        ),
    ],
)
def test_bad_images_and_processors_are_one_error(task, changes, error):
    with pytest.raises(ValueError, match=error):
        head_mirror.whole(replace(task, **changes))


def test_bad_prompts_are_one_error():
    with pytest.raises(ValueError, match="two or more different names"):
        PromptTargets(["good", "good"])
    with pytest.raises(ValueError, match="must have {} in place of a name"):
        PromptTargets(NAMES, prompt="a film")


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_inputs_are_of_the_dtype_of_the_weights(name, dtype):
    task = TASKS[name]
    half = replace(task, dtype=dtype)
    expected, found = (evaluate(one.model(), one).metrics["loss"] for one in (task, half))
    assert found == pytest.approx(expected, rel=0.05)
