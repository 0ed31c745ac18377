"""What a user does with the library alone, without any of its extras; to be run as a program.

    python core_program.py hiding    # where the extras are installed, as if they were not

Prints ``all of it`` at its end.
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import lowrank
from lowrank.files.extras import EXTRAS, MissingExtra


class Hiding:
    """A finder of modules that does not find what only extras install."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if is_hidden(name) else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):  # Finders also say which versions are installed.
        return getattr(self.finder, name)


def is_hidden(name):
    return name.partition(".")[0] in EXTRAS


def refused(extra, act, *arguments):
    try:
        act(*arguments)
    except MissingExtra as error:
        assert f"pip install 'lowrank[{extra}]'" in str(error), error
    else:
        raise AssertionError(f"{act} needs nothing of {extra}")


def same_from_file(model, small, folder, inputs):
    file = folder / "small.safetensors"
    lowrank.save(small, file)
    assert torch.equal(lowrank.load(file, model)(inputs), small(inputs))


def main():
    if sys.argv[1:] == ["hiding"]:
        assert not any(map(is_hidden, sys.modules))
        sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    from lowrank import records
    from lowrank.allocation import Budget, MixedAllocation, grid
    from lowrank.calibration import Calibration
    from lowrank.decomposers import GPTQ, CanonicalPolyadic, EntropyCodedQuantization, TruncatedSVD
    from lowrank.tasks import Digits, HubImages, Published

    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    batches = [torch.randn(16, 32) for _ in range(4)]
    norm = lowrank.CalibratedNorms("full")
    candidates = [grid(EntropyCodedQuantization, {"bits": [2, 3]}), [TruncatedSVD(rank=4)]]
    for method in (
        TruncatedSVD(rank=4),
        GPTQ(bits=4),
        MixedAllocation(candidates, Budget(ratio=4)),
    ):
        result = lowrank.compress(model, method, norm=norm, data=batches)
        assert len(result.layers) == 2 and result.summary()
        same_from_file(model, result.model, folder, batches[0])
    sites, _ = lowrank.Select().split(model)
    norm.calibrate(model, sites, batches).save(folder / "statistics.safetensors")
    data = Calibration.load(folder / "statistics.safetensors")
    lowrank.compress(model, GPTQ(bits=3), norm=norm, data=data)
    fast = lowrank.optimize_for(result.model, (batches[0],))
    assert fast.plan.summary()
    images = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    small = lowrank.compress(images, CanonicalPolyadic(rank=4)).model
    same_from_file(images, small, folder, torch.randn(1, 4, 8, 8))

    refused("reports", result.to_frame)
    refused("reports", fast.plan.to_frame)
    refused("reports", records.load, folder)
    refused("reports", __import__, "lowrank.reporting.plots")
    refused("tasks", Digits)
    refused("tasks", HubImages, "me/images")
    refused("tasks", Published, "me/weights")
    refused("harness", __import__("lowrank.measure.harness").measure.harness.check_harness)
    imported = [name for name in sys.modules if is_hidden(name)]
    assert not imported, imported
    print("all of it")


if __name__ == "__main__":
    main()
