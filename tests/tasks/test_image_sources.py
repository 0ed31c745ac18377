import os

import mirrors
import numpy as np
import pytest
import torch

from lowrank.tasks import Digits, HubImages


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An empty mirror."""
    hub = tmp_path / "hub"
    mirrors.use(hub, monkeypatch)
    return hub


def picture(mode, height, width, seed):
    from PIL import Image

    shape = (height, width) if mode == "L" else (height, width, len(mode))
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode=None
    )


def write(mirror, name, splits, label=None, **columns):
    """A dataset in the layout of the hub: one parquet file per split."""
    from datasets import ClassLabel, Dataset, Features, Image

    folder = mirror / "datasets" / name / "data"
    folder.mkdir(parents=True)
    label = label or ClassLabel(names=["cat", "dog", "owl"])
    features = Features({"picture": Image(), "kind": label, **columns})
    for split, (images, labels) in splits.items():
        rows = {"picture": images, "kind": labels} | {name: labels for name in columns}
        data = Dataset.from_dict(rows, features=features)
        data.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def simple(mode="L", count=6, **splits):
    images = [picture(mode, 5, 7, seed) for seed in range(count)]
    return {"train": (images, [i % 3 for i in range(count)]), "test": (images[:2], [2, 0])} | splits


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3)])
def test_pixels_and_labels_come_back_exactly(mirror, mode, channels):
    splits = simple(mode)
    write(mirror, "me/animals", splits)
    images = HubImages("me/animals").read("train")
    expected = np.stack([np.asarray(image) for image in splits["train"][0]])
    expected = expected[:, None] if mode == "L" else expected.transpose(0, 3, 1, 2)
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.shape == (6, channels, 5, 7)
    assert np.array_equal(images.pixels.numpy(), expected)
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert images.classes == 3
    assert HubImages("me/animals").read("test").labels.tolist() == [2, 0]


def test_decoded_once(mirror, monkeypatch):
    write(mirror, "me/animals", simple())
    first = HubImages("me/animals").read("train")
    monkeypatch.setattr("lowrank.tasks.hub.load_split", None)
    assert torch.equal(HubImages("me/animals").read("train").pixels, first.pixels)


def test_changed_files_are_decoded_again(mirror):
    write(mirror, "me/animals", simple())
    assert len(HubImages("me/animals").read("train").labels) == 6
    for file in (mirror / "datasets").rglob("*.parquet"):
        file.unlink()
    (mirror / "datasets/me/animals/data").rmdir()
    write(mirror, "me/animals", simple(count=4))
    assert len(HubImages("me/animals").read("train").labels) == 4


def test_sizes_and_modes_that_differ_need_size_and_channels(mirror):
    images = [picture("RGB", 5, 7, 0), picture("L", 9, 4, 1), picture("RGBA", 6, 6, 2)]
    write(mirror, "me/mixed", {"train": (images, [0, 1, 2]), "test": (images, [0, 1, 2])})
    with pytest.raises(ValueError, match=r"row 0 and \(1, 9, 4\) in row 1. Give `size` and"):
        HubImages("me/mixed").read("train")
    read = HubImages("me/mixed", size=(8, 6), channels=3).read("train")
    assert read.pixels.shape == (3, 3, 8, 6)
    grey = HubImages("me/mixed", size=(8, 6), channels=1).read("train")
    assert grey.pixels.shape == (3, 1, 8, 6)
    # A grey image has the same value in each channel of RGB.
    assert torch.equal(read.pixels[1], grey.pixels[1].expand(3, -1, -1))


def test_a_mode_that_is_neither_grey_nor_rgb_needs_channels(mirror):
    images = [picture("RGBA", 5, 5, 0)] * 2
    write(mirror, "me/alpha", {"train": (images, [0, 1]), "test": (images, [0, 1])})
    with pytest.raises(ValueError, match="row 0 .* mode 'RGBA'; give `channels`"):
        HubImages("me/alpha").read("train")


def test_integer_labels_are_named_by_the_user(mirror):
    from datasets import Value

    write(mirror, "me/numbers", simple(), label=Value("int64"))
    with pytest.raises(ValueError, match="0 columns of type ClassLabel; give `label`, one of"):
        HubImages("me/numbers").read("train")
    images = HubImages("me/numbers", label="kind").read("train")
    assert images.classes is None
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_several_label_columns_are_a_choice(mirror):
    from datasets import ClassLabel

    write(mirror, "me/two", simple(), coarse=ClassLabel(num_classes=5))
    with pytest.raises(ValueError, match="2 columns of type ClassLabel; give `label`"):
        HubImages("me/two").read("train")
    assert HubImages("me/two", label="coarse").read("train").classes == 5


@pytest.mark.parametrize("labels", [["a", "b"], [0, -1], [0.5, 1.0], [0, None]])
def test_labels_that_are_no_class_numbers(mirror, labels):
    from datasets import Value

    kind = {str: "string", int: "int64", float: "float32"}[type(labels[0])]
    images = [picture("L", 4, 4, seed) for seed in range(2)]
    splits = {"train": (images, labels), "test": (images, labels)}
    write(mirror, "me/bad", splits, label=Value(kind))
    with pytest.raises(ValueError, match="column 'kind' .* must hold class numbers from 0"):
        HubImages("me/bad", label="kind").read("train")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"test": "validation"}, "split 'validation' of dataset 'me/animals'.*validation"),
        ({"config": "large"}, "configuration 'large'"),
        ({"image": "photo"}, "no column image='photo'; it has .*picture"),
        ({"image": "kind"}, "row 0 of dataset 'me/animals' is no 8-bit image"),
    ],
)
def test_what_the_dataset_does_not_have(mirror, options, message):
    write(mirror, "me/animals", simple())
    with pytest.raises(ValueError, match=message):
        HubImages("me/animals", **options).read("test")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"train": "test"}, "train and test are both 'test'"),
        ({"channels": 2}, "channels=2 must be 1"),
        ({"size": (0, 8)}, "size=.0, 8. must be .height, width."),
        ({"size": (8,)}, "size=.8,. must be"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        HubImages("me/animals", **options)


def test_a_slice_of_a_split(mirror):
    write(mirror, "me/animals", simple())
    source = HubImages("me/animals", train="train[:4]", test="train[4:]")
    assert [len(source.read(part).labels) for part in ("train", "test")] == [4, 2]


def test_digits_hold_every_image_once():
    from sklearn.datasets import load_digits

    data = load_digits()
    train, test = Digits().read("train"), Digits().read("test")
    assert (len(train.labels), len(test.labels), train.white) == (1437, 360, 16)
    pixels = torch.cat([train.pixels, test.pixels]).flatten(1).numpy()
    labels = torch.cat([train.labels, test.labels]).numpy()
    rows = np.concatenate([pixels, labels[:, None]], axis=1)
    expected = np.concatenate([data.data, data.target[:, None]], axis=1)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))
    # Each class is in the test set about as often as in the data.
    assert test.labels.bincount(minlength=10).min() >= 25


@pytest.mark.parametrize(
    ("size", "allowed"), [(0, "at least 1"), (2.5, "an integer"), (1797, r"lie in 1\.\.1796")]
)
def test_a_test_set_of_impossible_size(size, allowed):
    with pytest.raises(ValueError, match=f"test_size={size} must .*{allowed}"):
        Digits(size).read("train")


@pytest.mark.skipif("LOWRANK_HUB" not in os.environ, reason="needs a mirror of the hub")
def test_cifar10_is_the_known_data():
    images = HubImages("uoft-cs/cifar10").read("test")
    assert images.pixels.shape == (10_000, 3, 32, 32)
    assert images.labels.bincount().tolist() == [1000] * 10
    mean = (images.pixels.double() / 255).mean(dim=(0, 2, 3))
    # The training images have 0.4914, 0.4822, 0.4465.
    torch.testing.assert_close(
        mean, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=0.005, rtol=0
    )
