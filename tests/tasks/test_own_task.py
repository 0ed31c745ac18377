"""A user's own network and dataset, from a configuration of ten lines."""

import importlib
import linecache

import numpy as np
import pytest
import torch

NETWORK = """
from torch import nn

def tiny_net(hidden):
    return nn.Sequential(
        nn.Conv2d(3, hidden, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * hidden, 2),
    )
"""

TASK = """
_target_: lowrank.tasks.ImageClassification
name: brightness
architecture: tiny
source: {_target_: lowrank.tasks.HubImages, dataset: me/brightness, size: [12, 10], channels: 3}
builder: my_networks:tiny_net
arguments: {hidden: 4}
weights:
  _target_: lowrank.tasks.Trained
  recipe: {_target_: lowrank.recovery.FineTune, epochs: 20, learning_rate: 0.01, batch_size: 16}
validation_size: 12
calibration_size: 10
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    import datasets
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Pillow

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    monkeypatch.setenv("LOWRANK_HUB", str(tmp_path / "hub"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_networks.py").write_text(NETWORK)
    folder = tmp_path / "hub" / "datasets" / "me" / "brightness"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 30)):
        images, labels = [], []
        for number in range(count):
            # Sizes and modes differ from image to image.
            shape = (8 + number % 5, 9 + number % 3, 3)[: 2 + number % 2]
            pixels = random.integers(0, 128, shape, dtype=np.uint8) + 127 * np.uint8(
                number % 2 == 0
            )
            images.append(Pillow.fromarray(pixels))
            labels.append(int(number % 2 == 0))
        features = Features({"scan": Image(), "verdict": ClassLabel(names=["dark", "bright"])})
        data = Dataset.from_dict({"scan": images, "verdict": labels}, features=features)
        data.to_parquet(str(folder / f"{split}.parquet"))


def test_ten_lines_make_a_task(own):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    task = instantiate(OmegaConf.create(TASK))
    model, test = task.model(), task.split("test")
    with torch.no_grad():
        correct = sum(
            int((task.forward(model, inputs).argmax(1) == targets).sum())
            for inputs, targets in test.batches(7)
        )
    assert correct / len(test) > 0.9
    assert task.classes == 2
    assert [len(task.split(name)) for name in ("train", "calibration", "validation")] == [
        48,
        10,
        12,
    ]
    # The library alone, with its cached weights, gives the same model.
    again = instantiate(OmegaConf.create(TASK), _convert_="all").model()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_edited_code_of_the_network_is_trained_anew(own, tmp_path, monkeypatch):
    """Same arguments and shapes, other activation: weights of the old network would be wrong."""
    import sys

    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    before = instantiate(OmegaConf.create(TASK)).model()
    (tmp_path / "my_networks.py").write_text(NETWORK.replace("nn.ReLU", "nn.Tanh"))
    monkeypatch.delitem(sys.modules, "my_networks")
    importlib.invalidate_caches()
    linecache.checkcache()
    after = instantiate(OmegaConf.create(TASK)).model()
    assert type(before[1]) is not type(after[1])
    assert not torch.equal(before[0].weight, after[0].weight)
