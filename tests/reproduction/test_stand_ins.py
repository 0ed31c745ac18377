"""Sweeps of tables that need a GPU, weights or data: each kind runs on a made-up small model."""

import math

import mirrors
import page_commands
import pytest
import text_mirror

from experiments.point import measured
from experiments.reproduction import entry, ours
from lowrank.records import store

# What stands for models, text and machines that are not here.
INSTEAD = {
    "task.pretrained": "me/tiny",
    "device": "cpu",
    "task.dtype": "float32",
    "task.calibration_size": "4",
    "task.validation_size": "4",
    "task.packing.sequence_length": "32",
    "task.test.dataset": "me/words",
    "task.test.config": "null",
    "task.test.split": "validation",
    "threads": "1",
}
# The tables of images, whose network and data are replaced as a whole.
IMAGES = ["task=digits_cnn", "task.weights=null", "threads=1", "measure.latency_batch_sizes=[]"]
SHORT = {"recovery.epochs": "2", "recovery.renewals": "1"}


ENTRIES = {table: entry.load(table) for table in entry.names()}


def kinds(of_texts: bool) -> dict[str, tuple[str, str]]:
    """The runs that need what is not here, one of those that differ in models and names alone."""
    found = {}
    for table, one in ENTRIES.items():
        for name, run in one.runs.items():
            reads = any(text.startswith("task.pretrained=") for text in run.sweep or ())
            if run.needs and run.sweep and reads == of_texts:
                own = [text for text in run.sweep if text.partition("=")[0] not in INSTEAD]
                kind = " ".join(sorted(text for text in own if not text.startswith("sweep=")))
                found.setdefault(kind, (table, name))
    return found


KINDS, OF_IMAGES = kinds(of_texts=True), kinds(of_texts=False)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    text_mirror.save_llama(folder / "models" / "me" / "tiny", text_mirror.byte_tokenizer())
    rows = {"train": text_mirror.rows(40, seed=1), "validation": text_mirror.rows(12, seed=2)}
    text_mirror.save_rows(
        folder / "datasets" / "me" / "words", **{name: {"text": own} for name, own in rows.items()}
    )
    return folder


def recorded(arguments, folder):
    """The records of the first point of a sweep, as they load."""
    job = page_commands.jobs(arguments)[0]
    store.save(measured(job.settings), folder)
    return store.load(folder)


def number(one, value, frame, select) -> float:
    found = ours.selected(frame, select, "here")
    (number,) = ours.evaluated(found, value.ours, "here")
    return number


@pytest.mark.parametrize("table, name", KINDS.values(), ids=["-".join(k) for k in KINDS.values()])
def test_a_run_measures_what_its_rows_show(table, name, hub, tmp_path, monkeypatch):
    mirrors.use(hub, monkeypatch)
    found = ENTRIES[table]
    run = found.runs[name]
    arguments = [text for text in run.sweep if text.partition("=")[0] not in INSTEAD]
    # The widths of the made-up model are below a group of the large one.
    arguments = [text.replace("group_size=128", "group_size=8") for text in arguments]
    frame = recorded([*arguments, *(f"{k}={v}" for k, v in INSTEAD.items())], tmp_path)
    rows = [row for row in found.rows.values() if row.select and found.run_of(row) == run]
    held = {"model": "me/tiny"}
    numbers = []
    for row in rows:
        select = row.select | {k: v for k, v in held.items() if k in row.select}
        if not ours.selected(frame, select, "here").empty:
            numbers += [number(row, found.values[c], frame, select) for c in row.published]
    assert numbers and all(math.isfinite(one) and one > 1 for one in numbers)


@pytest.mark.parametrize(
    "table, name", OF_IMAGES.values(), ids=["-".join(k) for k in OF_IMAGES.values()]
)
def test_a_run_of_images_measures_what_its_rows_show(table, name, tmp_path):
    found = ENTRIES[table]
    run = found.runs[name]
    own = [text for text in run.sweep if text.partition("=")[0] not in ("task", *SHORT)]
    short = [f"{k}={v}" for k, v in SHORT.items() if any(t.startswith(f"{k}=") for t in run.sweep)]
    frame = recorded([*IMAGES[:1], *own, *IMAGES[1:], *short], tmp_path)
    for row in (row for row in found.rows.values() if found.run_of(row) == run):
        numbers = [number(row, found.values[c], frame, row.select) for c in row.published]
        assert numbers and all(math.isfinite(one) for one in numbers)


@pytest.mark.parametrize("table", ["idelbayev_cifar_resnets", "he2016_table6"])
def test_the_tables_of_residual_networks_read_records_of_images(table, tmp_path):
    found = ENTRIES[table]
    (run,) = found.runs.values()
    arguments = [text for text in run.sweep if not text.startswith(("task=", "measure."))]
    frame = recorded([*arguments, *IMAGES], tmp_path)
    row = found.rows["ResNet-20"]
    error, params = (number(row, found.values[c], frame, {}) for c in ("error", "params"))
    assert 0 < error < 100 and params == pytest.approx(frame["params"].iloc[0] / 1e6)
