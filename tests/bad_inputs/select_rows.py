"""Bad choices of layers."""

from row import Row
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import Quantization
from lowrank.model.select import Select


def select(**fields):
    """Compress a model with a choice of layers."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    return lambda _: compress(model, Quantization(bits=4), where=Select(**fields))


ROWS = [
    Row("matches no layer", select(include="encoder.*"), "matches no layer"),
    Row("one of two patterns is idle", select(include=["0", "x"]), r"include=\['x'\]"),
    Row("idle exclude", select(exclude="x"), r"exclude=\['x'\]"),
    Row("unknown kind", select(kinds="Conv2d"), "are not in the model"),
    Row("excludes all", select(exclude="*"), "matches no layer"),
]
