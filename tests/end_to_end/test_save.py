"""Models that a sweep keeps beside its records."""

import json
import os
import re
import signal
import time

import pytest
from sweeps import run, start

import lowrank
from experiments.parts import make
from lowrank.point import evaluate

# Of the points of one level, those whose number is in a file beside it become worse.
SHAKY = """
from dataclasses import dataclass
from pathlib import Path
import time
from lowrank.decomposers import TruncatedSVD
from lowrank.factorizations import Dense

@dataclass(frozen=True)
class Shaky(TruncatedSVD):
    number: int = 0

    def _decompose(self, weight, norm):
        time.sleep(0.1)
        spoilt = Path(__file__).parent / "spoilt"
        if spoilt.exists() and str(self.number) in spoilt.read_text():
            return Dense(-weight)
        return super()._decompose(weight, norm)
"""
METHOD = ("method._target_=shaky.Shaky", "method.rank=4")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shaky(tmp_path, monkeypatch):
    (tmp_path / "shaky.py").write_text(SHAKY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def read(folder):
    """The records of a folder by the number of their method, and the models there."""
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    models = {path.name for path in folder.glob("*-*.safetensors")}
    return {record["config"]["method"].get("number"): record for record in records}, models


def best(records):
    """The number of the point that is best on the validation split."""
    return min(records, key=lambda n: (-records[n]["validation"]["top1"], records[n]["key"]))


def test_a_point_keeps_its_model_if_asked_and_is_whole_only_with_it(cache, tmp_path):
    point = ("method.rank=4", "task.weights=null", f"results={tmp_path}")
    assert "1 measured here" in run(cache, *point).stdout
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    beside = {path.name, record["outcomes_file"]}
    assert "model_file" not in record and {one.name for one in tmp_path.iterdir()} == beside
    assert "1 measured here" in run(cache, *point, "save=all").stdout
    record = json.loads(path.read_text())
    assert {one.name for one in tmp_path.iterdir()} == beside | {record["model_file"]}
    for asked in ("save=all", "save=none"):
        assert "1 had their record" in run(cache, *point, asked).stdout
    (tmp_path / record["model_file"]).unlink()
    assert "1 measured here" in run(cache, *point, "save=all").stdout
    # It does not compete yet.
    assert "1 measured here" in run(cache, *point, "save=best").stdout
    assert json.loads(path.read_text())["keep"] == "best"
    (tmp_path / record["outcomes_file"]).unlink()
    assert "1 measured here" in run(cache, *point, "save=best").stdout
    assert {record["outcomes_file"]} < {one.name for one in tmp_path.iterdir()}


def test_workers_at_once_keep_the_best_of_the_seeds(cache, tmp_path):
    workers = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    points = ("method.rank=2,4", "seed=0,1,2", "task.weights=null", "save=best")
    said = run(cache, *workers, *points, f"results={tmp_path}")
    assert "6 measured here" in said.stdout, said.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    models = set()
    for rank in (2, 4):
        of_rank = {n: record for n, record in enumerate(records) if record["level"] == rank}
        (named,) = [n for n, record in of_rank.items() if "model_file" in record]
        assert named == best(of_rank)
        models.add(records[named]["model_file"])
    assert {path.name for path in tmp_path.glob("*-*.safetensors")} == models
    chosen = records[named]
    task = make(chosen["config"]["task"])
    model = lowrank.load(tmp_path / chosen["model_file"], task.model())
    found = evaluate(model, task, "validation").metrics
    assert found and found.items() <= chosen["validation"].items()
    assert "6 had their record" in run(cache, *points, f"results={tmp_path}").stdout
    (tmp_path / chosen["model_file"]).unlink()
    assert "1 measured here" in run(cache, *points, f"results={tmp_path}").stdout
    assert {path.name for path in tmp_path.glob("*-*.safetensors")} == models


def test_a_sweep_that_was_killed_goes_on_to_one_best(cache, shaky):
    folder = shaky / "records"
    points = (*METHOD, "+method.number=range(1,6)", "save=best", f"results={folder}")
    killed, deadline = start(cache, *points), time.time() + 60
    while len(list(folder.glob("*.json"))) < 2:
        assert time.time() < deadline and killed.poll() is None
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    said = run(cache, *points)
    measured = re.search(r"(\d) had their record, (\d) measured here, .* 0 failed", said.stdout)
    assert measured and int(measured[1]) >= 2 and int(measured[2]) > 0, said.stderr
    records, models = read(folder)
    assert len(records) == 5 and models == {records[best(records)]["model_file"]}
    assert [n for n in records if "model_file" in records[n]] == [best(records)]
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_a_best_that_is_measured_again_and_is_worse_gives_its_place_to_the_next(cache, shaky):
    folder = shaky / "records"
    common = (*METHOD, "save=best", f"results={folder}")
    assert "2 measured here" in run(cache, *common, "+method.number=1,2").stdout
    records, models = read(folder)
    first = best(records)
    assert records[1]["validation"] == records[2]["validation"]
    assert models == {records[first]["model_file"]}
    (shaky / "spoilt").write_text(str(first))
    other = 3 - first
    said = run(cache, *common, f"+method.number={other},{first}", "force=true")
    assert "2 measured here" in said.stdout and "0 failed" in said.stdout, said.stderr
    records, models = read(folder)
    assert records[first]["validation"]["top1"] < records[other]["validation"]["top1"]
    assert models == {records[other]["model_file"]} and "model_file" not in records[first]
    said = run(cache, *common, "+method.number=1,2")
    assert "2 had their record" in said.stdout, said.stderr
