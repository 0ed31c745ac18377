"""What reaches the tracker, taken down by a stand-in for the run of wandb."""

from contextlib import contextmanager

import made_records as records
import pytest

from experiments.trackers import WandbTracker
from lowrank.records import store


@pytest.fixture
def logged(monkeypatch):
    """All that is logged, as one mapping."""
    entries = {}

    class Run:
        def log(self, values, step=None):
            entries.update(values)

    @contextmanager
    def run(self, sweep, name, config):
        yield Run()

    monkeypatch.setattr(WandbTracker, "_run", run)
    return entries


TRACKER = WandbTracker("offline", "lowrank", ".")


def test_the_numbers_of_layers_stay_numbers(logged):
    made_up = records.record()
    TRACKER.log_point(made_up, "sweep")
    table = logged["layers"]
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.data]
    for row, layer in zip(rows, made_up["layers"], strict=True):
        for name in ("relative_error", "bytes", "macs", "bits_per_weight", "name"):
            assert row[name] == layer[name]
        assert row["shape"] == str(layer["shape"])


def test_every_measure_of_quality_has_its_curves(logged, tmp_path):
    records.write(tmp_path, 1, ("svd", "uniform"))
    TRACKER.log_curves(str(tmp_path), "sweep")
    qualities = ("top1", "top5", "macro_recall", "macro_f1", "loss", "flipped", "kl")
    assert set(logged) == {f"curves/digits-mlp/{name}" for name in qualities}
    frame = store.load(tmp_path)
    ys = [row[-1] for row in logged["curves/digits-mlp/loss"].table.data]
    assert sorted(ys) == pytest.approx(sorted(frame["loss"]))
