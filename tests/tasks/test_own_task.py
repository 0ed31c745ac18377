"""A user's own network and dataset, from a configuration of ten lines."""

import importlib
import linecache
import re
from pathlib import Path

import mirrors
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
  recipe: {_target_: lowrank.tasks.Training, epochs: 20, learning_rate: 0.01, batch_size: 16}
validation_size: 12
calibration_size: 10
"""


PAGE = Path(__file__).parents[2] / "docs/how-to-add-a-task.md"
NETWORKS = """
from torch import nn

def build(hidden):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Pillow

    mirrors.use(tmp_path / "hub", monkeypatch)
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
            int((task.forward(model, batch).argmax(1) == batch.targets).sum())
            for batch in test.batches(7)
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


@pytest.mark.parametrize("count", [360, 30])
def test_the_task_of_the_pages_fits_few_images_as_it_is_written(count, tmp_path, monkeypatch):
    from datasets import ClassLabel, Dataset, Features, Image
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from PIL import Image as Pillow

    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (written,) = [block for block in blocks if "lowrank.tasks.ImageClassification" in block]
    mirrors.use(tmp_path / "hub", monkeypatch)
    monkeypatch.syspath_prepend(tmp_path)
    config = OmegaConf.create(written)
    package, _, module = config.builder.partition(":")[0].rpartition(".")
    (tmp_path / package).mkdir()
    (tmp_path / package / f"{module}.py").write_text(NETWORKS)
    folder = tmp_path / "hub" / "datasets" / config.source.dataset
    folder.mkdir(parents=True)
    features = Features({"image": Image(), "label": ClassLabel(num_classes=10)})
    for part, size in {"train": count, "test": 20}.items():
        images = [Pillow.new("L", (28, 28), color=number % 256) for number in range(size)]
        columns = {"image": images, "label": [number % 10 for number in range(size)]}
        Dataset.from_dict(columns, features=features).to_parquet(str(folder / f"{part}.parquet"))
    task = instantiate(config, _convert_="all")
    task.check()
    sizes = {name: len(task.split(name)) for name in ("train", "validation", "calibration")}
    expected = {360: (324, 36, 324), 30: (27, 3, 27)}[count]
    assert tuple(sizes.values()) == expected
    protocol = task.protocol()
    assert protocol["validation_images"] == expected[1] and protocol["test_images"] == 20
    assert task.model() is not None


def test_edited_code_of_the_training_trains_anew(own, monkeypatch):
    """Neither numbers nor recipe say which code made the weights of the cache."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from lowrank.tasks import ClassScores

    task = instantiate(OmegaConf.create(TASK))
    before = task.model()
    monkeypatch.setattr(ClassScores, "loss", squares)
    assert not torch.equal(task.model()[0].weight, before[0].weight)


def squares(self, outputs, targets):
    return (outputs.softmax(dim=1).gather(1, targets[:, None]) - 1).square().mean()


def test_code_without_a_file_counts_by_what_is_known_of_it():
    from lowrank.tasks.weights import code_of

    assert code_of(squares) == code_of(test_ten_lines_make_a_task)  # Of one module.
    assert code_of(squares) != code_of(pytest.fixture)
    space = {"__name__": "nowhere"}
    exec("def nothing(): ...", space)
    assert code_of(space["nothing"]) == code_of()
