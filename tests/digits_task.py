"""A small task for tests: an untrained MLP on the digits."""

from lowrank.point import MeasureSettings
from lowrank.tasks import Digits, ImageClassification

QUICK = MeasureSettings(latency_batch_sizes=())
TASK = ImageClassification(
    name="digits",
    architecture="mlp",
    source=Digits(),
    builder="lowrank.tasks.networks.multilayer:mlp",
    arguments={"widths": [64, 16, 10]},
    weights=None,
    calibration_size=64,
)
