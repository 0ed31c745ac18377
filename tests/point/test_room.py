"""What a measure needs is estimated well, and refused where it is not there."""

import importlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lowrank.measure import free_memory
from lowrank.point import MeasureSettings, measure, room
from lowrank.tasks import Digits, ImageClassification, Trained
from lowrank.tasks.networks.multilayer import mlp

TASK = ImageClassification(
    name="digits",
    architecture="mlp",
    source=Digits(),
    builder="lowrank.tasks.networks.multilayer:mlp",
    weights=None,
    arguments={"widths": [64, 128, 10]},
)
SETTINGS = MeasureSettings(batch_size=100, latency_batch_sizes=(1, 50), latency_seconds=0.001)

# Estimates beside the growth of the memory that the kernel saw, of three tasks.
COMPARED = """
import copy, json, sys
import torch
from lowrank.point import MeasureSettings, evaluate
from lowrank.point import room
sys.path[:0] = sys.argv[1:]
from measured_tasks import tasks

torch.set_num_threads(1)

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

for task, batch in tasks():
    model = task.model()
    evaluate(model, task, batch_size=2)  # Libraries load what they need.
    need, batch = room._evaluation(model, task), min(batch, len(task.split("test")))
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    first = evaluate(model, task, batch_size=batch)
    evaluate(copy.deepcopy(model), task, batch_size=batch, reference=first.outputs)
    found = status("VmHWM") - before
    print(json.dumps([need.of(batch, torch.device("cpu")), found]))
"""
TASKS = """
from dataclasses import dataclass
import torch
from torch import nn
from lowrank.tasks import Images, ImageClassification, ImageSource
from lowrank.tasks.causal_lm import CausalLM, Packing
from lowrank.tasks.text_sources import HubText
from lowrank.tasks.text_classification import TextClassification

@dataclass(frozen=True)
class Noise(ImageSource):
    def read(self, part):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (600, 3, 32, 32), generator=generator)
        return Images(pixels.to(torch.uint8), torch.arange(600) % 10, classes=10)

def network():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    )

def tasks():
    yield ImageClassification("noise", "cnn", Noise(), "measured_tasks:network", None), 600
    texts = {"test": HubText("me/words", "validation"), "train": HubText("me/words", "train")}
    yield CausalLM("words", "tiny", "me/tiny", packing=Packing(64, stride=2), **texts), 400
    rows = {
        "test": HubText("me/verdicts", "validation", column="sentence"),
        "train": HubText("me/verdicts", "train", column="sentence"),
    }
    yield TextClassification("verdicts", "bert", "me/bert", classes=2, max_length=16, **rows), 1500
"""


def save_mirror(folder):
    import text_mirror

    text_mirror.save_llama(folder / "models" / "me" / "tiny", text_mirror.byte_tokenizer())
    text_mirror.save_bert(folder / "models" / "me" / "bert")
    text_mirror.save_rows(
        folder / "datasets" / "me" / "words",
        train={"text": text_mirror.rows(40, seed=1)},
        validation={"text": text_mirror.rows(40, seed=2)},
    )
    text_mirror.save_rows(
        folder / "datasets" / "me" / "verdicts",
        train=text_mirror.sentences(100, 2, seed=1),
        validation=text_mirror.sentences(1500, 2, seed=2),
    )


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the peak")
def test_the_estimate_is_within_half_of_the_peak_on_three_tasks(tmp_path):
    save_mirror(tmp_path / "hub")
    (tmp_path / "measured_tasks.py").write_text(TASKS)
    own = {
        "LOWRANK_HUB": str(tmp_path / "hub"),
        "LOWRANK_CACHE": str(tmp_path / "cache"),
        "HF_DATASETS_CACHE": str(tmp_path / "arrow"),
        # What is freed goes back to the system at once, and nothing freed earlier is used again.
        "MALLOC_MMAP_THRESHOLD_": "16384",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPARED, str(tmp_path)],
        env=os.environ | own,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pairs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(pairs) == 3
    for estimate, found in pairs:
        assert found > 5e6  # Enough to tell.
        assert 1 / 1.5 < estimate / found < 1.5


def test_what_an_mlp_needs_by_hand():
    """Its widest moment: the inputs, the hidden layer and its rectified self; no weights."""
    model = mlp([64, 128, 10])
    fixed, each = room._line(model, lambda rows: model(torch.zeros(rows, 64)))
    assert (fixed, each) == (0, 4 * (64 + 128 + 128))
    need, cpu = room.Need(((fixed, each),), kept=100), torch.device("cpu")
    assert need.of(10, cpu) == 1.25 * 10 * each + 100
    assert need.most(1.25 * 10.5 * each + 100, cpu) == 10 and need.most(each, cpu) == 0
    # Of stages that follow each other the larger counts; kept is what is kept on the CPU.
    both, cuda = room.Need(((0, 8), (40, 4)), kept=1000), torch.device("cuda")
    assert [both.of(batch, cuda) for batch in (1, 10, 20)] == [55, 100, 200]
    assert [both.most(free, cuda) for free in (54, 55, 100, 109, 110, 200)] == [
        0,
        1,
        10,
        10,
        11,
        20,
    ]


@pytest.mark.parametrize(
    "settings, name",
    [
        (replace(SETTINGS, batch_size=300), "batch_size"),
        (replace(SETTINGS, latency_batch_sizes=(1, 7000)), "latency_batch_sizes"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_batch_that_does(settings, name, monkeypatch):
    limit = 300_000
    monkeypatch.setattr(room, "free_memory", lambda device: limit)
    model = TASK.model()
    with pytest.raises(ValueError, match=rf"{name}=[0-9]+: .* 300 kB are free on cpu; ") as caught:
        measure(model, TASK, settings)
    fitting = int(str(caught.value).rpartition("=")[2].split()[0])
    smaller = fitting if name == "batch_size" else (1, fitting)
    larger = fitting + 1 if name == "batch_size" else (1, fitting + 1)
    measure(model, TASK, replace(settings, **{name: smaller}))
    with pytest.raises(ValueError, match="would fit"):
        measure(model, TASK, replace(settings, **{name: larger}))


def test_where_not_even_one_example_fits_no_batch_size_is_proposed(monkeypatch):
    monkeypatch.setattr(room, "free_memory", lambda device: 10.0)
    with pytest.raises(ValueError, match="not even one would fit: take a smaller model"):
        measure(TASK.model(), TASK, SETTINGS)


def test_a_batch_of_more_examples_than_there_are_is_no_larger(monkeypatch):
    settings = replace(SETTINGS, batch_size=10**9)
    measure(TASK.model(), TASK, settings)
    monkeypatch.setattr(room, "free_memory", lambda device: 300_000)
    with pytest.raises(ValueError, match="batch_size=1000000000: .* to run 360 examples at once"):
        measure(TASK.model(), TASK, settings)


def test_several_processes_share_what_there_is(monkeypatch):
    model, settings = TASK.model(), SETTINGS.of(TASK)
    monkeypatch.setattr(room, "free_memory", lambda device: 500_000)
    room.check_room(model, TASK, settings)
    with pytest.raises(ValueError, match="125 kB are free"):
        room.check_room(model, TASK, settings, processes=4)
    with pytest.raises(ValueError, match="batch_size"):
        room.check_room(model, TASK, settings, copies=30)


def test_each_task_says_what_it_can_run_at_once():
    from lowrank.tasks import TextClassification

    open_settings = MeasureSettings()
    found = open_settings.of(TASK)
    assert (found.batch_size, found.latency_batch_sizes) == (256, (1, 256))
    assert TextClassification.batch_sizes.latency == (1,)
    given = MeasureSettings(batch_size=3, latency_batch_sizes=())
    assert given.of(TASK) == given


def fields(text):
    return "\n".join(f"{name}: {value} kB" for name, value in text.items())


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GB, in a control group and with a limit, as its files say."""
    module = importlib.import_module("lowrank.measure.free_memory")
    files = {
        "/proc/meminfo": tmp_path / "meminfo",
        "/proc/self/status": tmp_path / "status",
        "/proc/self/cgroup": tmp_path / "cgroup",
    }
    files["/proc/meminfo"].write_text(fields({"MemTotal": 9_000_000, "MemAvailable": 8_000_000}))
    files["/proc/self/status"].write_text(fields({"VmSize": 1_000_000}))
    monkeypatch.setattr(module, "Path", lambda name: files.get(name, Path(name)))
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "sys")
    return files


def group(folder, limit, used, cached):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_free_memory_is_the_least_of_what_machine_groups_and_process_have(machine, tmp_path):
    import resource

    assert free_memory() == 8_000_000 * 1024
    machine["/proc/self/cgroup"].write_text("0::/jobs/one\n")
    assert free_memory() == 8_000_000 * 1024  # No such folder: nobody says.
    group(tmp_path / "sys", "max", 10, 0)
    group(tmp_path / "sys/jobs/one", "max", 10, 0)
    assert free_memory() == 8_000_000 * 1024
    # The limit of an outer group holds too, and cached files can be given back.
    group(tmp_path / "sys/jobs", 5_000_000, 3_000_000, 1_000_000)
    assert free_memory() == 3_000_000
    limits = resource.getrlimit(resource.RLIMIT_AS)
    assert limits[0] == resource.RLIM_INFINITY or limits[0] > 3_000_000


def test_free_memory_of_older_control_groups(machine, tmp_path):
    machine["/proc/self/cgroup"].write_text("3:cpu:/x\n4:memory,hugetlb:/pod\n")
    folder = tmp_path / "sys" / "memory" / "pod"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("4000000")
    (folder / "memory.usage_in_bytes").write_text("3000000")
    (folder / "memory.stat").write_text("total_inactive_file 500000\n")
    assert free_memory() == 1_500_000


def test_the_limit_of_the_address_space_counts(machine, monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (2_000_000 * 1024, -1))
    assert free_memory() == 1_000_000 * 1024


def test_a_device_that_nobody_can_ask_has_no_limit():
    assert free_memory("meta") == math.inf


def test_a_view_of_large_outputs_keeps_its_own_memory_alone():
    from lowrank.point import evaluate

    class Wide(nn.Module):
        def forward(self, x):
            return x.flatten(1).repeat(1, 100)[:, :10]

    task = replace(TASK, builder="torch.nn:Identity", arguments={})
    outputs = evaluate(Wide(), task, batch_size=90).outputs
    kept = sum(part.untyped_storage().nbytes() for part in outputs)
    assert kept == 360 * 10 * 4


def test_trained_weights_need_no_check():
    from lowrank.tasks import Training

    replace(TASK, weights=Trained(Training(1, 0.1))).check()
