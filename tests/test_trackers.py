"""What reaches the trackers: by a stand-in for the run of wandb, and in the files that are left."""

import struct
from contextlib import contextmanager
from pathlib import Path

import made_records as records
import pytest

from experiments.trackers import TensorBoardTracker, WandbTracker
from experiments.trackers.tracker import name_of
from lowrank.records import store
from lowrank.records.columns import usual_size
from lowrank.reporting.curves import comparisons, summarise
from lowrank.reporting.tables import long_table, summary_table

QUALITIES = ("top1", "top5", "macro_recall", "macro_f1", "loss", "flipped", "kl")
TRACKER = WandbTracker("offline", "lowrank", ".")


@pytest.fixture
def logged(monkeypatch):
    """All that is logged, as one mapping, and the artifacts under their names."""
    entries = {}

    class Run:
        def log(self, values, step=None):
            entries.update(values)

        def log_artifact(self, artifact):
            entries[artifact.name] = artifact

    @contextmanager
    def run(self, sweep, name, kind, config):
        entries["config"] = config
        yield Run()

    monkeypatch.setattr(WandbTracker, "_run", run)
    return entries


def test_the_numbers_of_layers_stay_numbers(logged):
    made_up = records.record()
    TRACKER.log_point(made_up, "sweep")
    table = logged["layers"]
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.data]
    for row, layer in zip(rows, made_up["layers"], strict=True):
        for name in ("relative_error", "bytes", "macs", "bits_per_weight", "name"):
            assert row[name] == layer[name]
        assert row["shape"] == str(layer["shape"])


def test_a_point_has_its_measures(logged):
    made_up = records.record()
    made_up["ratios"]["coverage"] = None
    TRACKER.log_point(made_up, "sweep")
    assert logged["validation/top1"] == made_up["validation"]["top1"]
    assert logged["timings/compress_s"] == made_up["timings"]["compress_s"]
    assert logged["compressed/top1"] == made_up["compressed"]["top1"]
    assert logged["ratios/compression_ratio"] == made_up["ratios"]["compression_ratio"]
    assert logged["latency/batch_64/speedup"] == made_up["latency"][1]["speedup"]
    assert "ratios/coverage" not in logged


def test_runs_are_grouped_by_what_tells_points_apart(logged):
    made_up = records.record("svd", 1, 2) | {"level": None}
    TRACKER.log_point(made_up, "sweep")
    config = logged["config"]
    assert {name: config[name] for name in made_up["config"]} == made_up["config"]
    names = ("task", "model", "method", "family", "norm", "recovery", "seed")
    assert config["point"] == {name: made_up[name] for name in names} | {"level": "none"}


def test_runs_are_named_by_what_tells_points_apart():
    assert name_of(records.record("svd", 1, 2)) == "svd 16 seed 2"
    own = records.record() | {"level": None, "norm": "full", "recovery": "tune"}
    assert name_of(own) == "svd full norm + tune seed 0"


def test_a_sweep_has_curves_tables_a_figure_and_its_records(logged, tmp_path):
    records.write(tmp_path, 1, ("svd", "uniform"))
    (tmp_path / "svd.safetensors").touch()
    outcomes = tmp_path / f"{next(tmp_path.glob('*.json')).stem}.outcomes.safetensors"
    outcomes.touch()
    TRACKER.log_sweep(str(tmp_path), "my sweep")
    curves = {f"curves/digits-mlp/{name}" for name in QUALITIES}
    tables = {"tables/digits-mlp/summary", "tables/digits-mlp/points"}
    rest = {"figures/digits-mlp", "my_sweep-records", "config"}
    assert set(logged) == curves | tables | rest
    frame = store.load(tmp_path)
    ys = [row[-1] for row in logged["curves/digits-mlp/loss"].table.data]
    assert sorted(ys) == pytest.approx(sorted(frame["loss"]))
    table = logged["tables/digits-mlp/summary"]
    (svd,) = [dict(zip(table.columns, row, strict=True)) for row in table.data if "svd" in row]
    expected = summary_table(frame).values
    assert svd["4x"] == expected[expected["method"] == "svd"]["4x"].item()
    held = set(logged["my_sweep-records"].manifest.entries)
    assert held == {outcomes.name, *(path.name for path in tmp_path.glob("*.json"))}
    assert len(held) == 11


def test_curves_are_against_the_size_that_suits_the_model(logged, tmp_path):
    for step in range(2):
        made_up = records.text_record("gptq", step)
        made_up["ratios"] |= {"coverage": 0.2, "layers_bits_per_weight": 3.0 + step}
        store.save(made_up, tmp_path)
    assert usual_size(store.load(tmp_path)) == "layers_bits_per_weight"
    TRACKER.log_sweep(str(tmp_path), "texts")
    table = logged["curves/stories-llama/perplexity"].table
    assert sorted(row[table.columns.index("step")] for row in table.data) == [3.0, 4.0]


def test_wandb_takes_all_of_a_sweep_offline(tmp_path):
    records.write(tmp_path / "runs", 1, ("svd", "uniform"))
    WandbTracker("offline", "lowrank", str(tmp_path)).log_sweep(str(tmp_path / "runs"), "mine")
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    # Strings are in its messages as they are.
    written = log.read_bytes()
    assert b"mine-records" in written and b"digits-mlp: kl against compression ratio" in written
    media = log.parent / "files" / "media"
    tables = [path.name for path in media.glob("table/**/*.json")]
    assert len([name for name in tables if name.startswith(("summary", "points"))]) == 2
    assert len(tables) == 2 + len(QUALITIES)
    assert len(list(media.glob("images/**/*.png"))) == 1


def events(folder: Path):
    """The values of all event files in a folder: tag → value."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.glob("events.*"):
        data = path.read_bytes()
        while data:
            # Length, its checksum, the event, its checksum.
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            found |= {value.tag: value for value in event.summary.value}
    return found


def test_tensorboard_has_each_point_and_the_tables_of_the_sweep(tmp_path):
    tracker = TensorBoardTracker(str(tmp_path / "boards"))
    records.write(tmp_path / "runs", 1, ("svd", "uniform"))
    made_up = records.record("svd", 1) | {"level": None}
    tracker.log_point(made_up, "mine")
    (place,) = (tmp_path / "boards" / "mine").iterdir()
    values = events(place)
    top1 = values["compressed/top1"].simple_value
    assert top1 == pytest.approx(made_up["compressed"]["top1"])
    assert any(tag.startswith("_hparams_") for tag in values)
    tracker.log_sweep(str(tmp_path / "runs"), "mine")
    values = events(tmp_path / "boards" / "mine" / "sweep")
    ((name, part),) = comparisons(store.load(tmp_path / "runs"))
    for kind, table in (("summary", summary_table(part)), ("points", long_table(part))):
        (text,) = values[f"{name}/{kind}/text_summary"].tensor.string_val
        assert text.decode() == table.to_markdown()
    image = values[f"{name}/quality"].image
    assert image.width > 700 and image.encoded_image_string[1:4] == b"PNG"
    assert len(summarise(part, ["top1"])) == 10
