"""Real sweeps from the command line, on the digits."""

import os
import random
import re
import signal
import time

import pytest
from sweeps import records, run, start

from lowrank.records import store
from lowrank.reporting import curves

RANKS = "method.rank=2,4,8"


def write_faulty(folder, monkeypatch, body):
    """A method of one's own, `faulty.Faulty`, that does not work."""
    (folder / "faulty.py").write_text(
        "from lowrank.decomposers import TruncatedSVD\n\n"
        "class Faulty(TruncatedSVD):\n"
        "    def _decompose(self, weight, norm):\n"
        f"        {body}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture(scope="session")
def undisturbed(cache, tmp_path_factory):
    """The records of a sweep over three ranks and two seeds that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = run(cache, RANKS, "seed=0,1", f"results={folder}")
    assert finished.returncode == 0, finished.stderr
    return folder


def test_each_point_is_one_record_that_stands_alone(undisturbed):
    frame = store.load(undisturbed)
    assert sorted(zip(frame["level"], frame["seed"], strict=True)) == [
        (rank, seed) for rank in (2, 4, 8) for seed in (0, 1)
    ]
    assert set(frame["method"]) == {"svd"} and set(frame["family"]) == {"low rank"}
    assert set(frame["recovery"]) == {"none"} and set(frame["model"]) == {"mlp"}
    assert (frame["dense_top1"] > 0.95).all() and (frame["top1"] <= frame["dense_top1"]).all()
    # The seed is that of the model too, not of the point alone.
    assert frame.groupby("seed")["dense_loss"].nunique().tolist() == [1, 1]
    assert frame["dense_loss"].nunique() == 2
    assert (frame["latency_b1_threads"] == 1).all()
    assert {"environment.torch", "environment.git_commit", "timings.compress_s"} <= set(frame)


def test_finished_points_are_passed_over_and_forced_ones_are_the_same_again(
    cache, undisturbed, tmp_path
):
    arguments = (RANKS, "seed=0", f"results={tmp_path}")
    run(cache, "method.rank=4", "seed=0", f"results={tmp_path}")
    (first,) = tmp_path.glob("*.json")
    before = first.stat().st_mtime_ns
    second = run(cache, *arguments)
    assert second.returncode == 0
    assert "3 points: 1 had their record, 2 measured here, 0 by others, 0 failed" in second.stdout
    assert first.stat().st_mtime_ns == before
    # From the point that was there the count goes on.
    line = (
        r"\[3/3, 0:00 left\] digits mlp svd 8, seed 0  top1 0\.\d+ \(dense 0\.\d+\)  4\.46x, 6\.89 "
    )
    assert re.search(line, second.stdout)
    forced = run(cache, *arguments, "force=true")
    assert "3 points: 0 had their record, 3 measured here, 0 by others, 0 failed" in forced.stdout
    assert first.stat().st_mtime_ns > before
    expected = records(undisturbed)
    again = records(tmp_path)
    assert len(again) == 3
    for name, record in again.items():
        assert record["config"].pop("force") is True
        expected[name]["config"].pop("force")
        assert record == expected[name]


def test_parallel_workers_make_the_same_records_and_outlive_a_failing_point(
    cache, undisturbed, tmp_path, monkeypatch
):
    write_faulty(tmp_path, monkeypatch, 'raise ValueError("too odd a weight")')
    finished = run(
        cache,
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        RANKS,
        "method._target_=lowrank.decomposers.TruncatedSVD,faulty.Faulty",
        "seed=0,1",
        f"results={tmp_path / 'records'}",
    )
    assert finished.returncode == 1
    said = "12 points: 0 had their record, 6 measured here, 0 by others, 6 failed"
    assert said in finished.stdout
    assert finished.stderr.count("FAILED") == finished.stderr.count("too odd a weight") == 6
    assert "layer 'fc1'" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert re.search(r"^\[12/12, ", finished.stdout + finished.stderr, re.MULTILINE)
    assert records(tmp_path / "records") == records(undisturbed)
    assert not list((tmp_path / "records").glob("*.claim"))


def test_killed_at_any_moment_it_goes_on_to_the_same_records(cache, undisturbed, tmp_path):
    arguments = (RANKS, "seed=0,1", f"results={tmp_path}")
    moments = random.Random(0)
    for kill in range(5):
        process = start(cache, *arguments)
        # Half of the kills anywhere, start-up included; half when it is just writing records.
        deadline = time.time() + (moments.uniform(0, 6) if kill % 2 == 0 else 60)
        while time.time() < deadline and process.poll() is None:
            if kill % 2 and list(tmp_path.glob(".*.tmp")):
                break
            time.sleep(moments.uniform(0, 0.01))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for record in records(tmp_path).values():
            assert record["schema"] == 3
    finished = run(cache, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert records(tmp_path) == records(undisturbed)
    assert len(store.load(tmp_path)) == 6
    # Nothing of the killed ones is left but the records.
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_interrupted_by_hand_it_says_how_to_go_on(cache, tmp_path):
    points = ("method.rank=range(1,11)", "where=all,inner,no_classifier", "seed=0,1")
    process = start(cache, *points, f"results={tmp_path}")
    while not list(tmp_path.glob("*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert 1 <= len(records(tmp_path)) < 60


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["method.rnk=4"], "Could not override 'method.rnk'"),
        (["method=svd,nm", "method.rnk=4"], "Could not override 'method.rnk'"),
        (["method=svdd"], "Could not find 'method/svdd'"),
        (["method=svd,svdd"], "Could not find 'method/svdd'"),
        (["method_name=${method.rnk}"], "'method.rnk' not found"),
        (["method=magnitude", "method.sparsity=0.5,1.5"], "sparsity=1.5 must lie in"),
        (["method=quantization", "method.bits=8,9"], "bits=9"),
        (["+method.rnk=4"], "TruncatedSVD has no field rnk: it has rank"),
        (["where.include=fc1,conv*"], "Weights that can be compressed: fc1, fc2, fc3"),
        (["recovery=batchnorm"], "this model has no BatchNorm with running statistics"),
        (["seed=a"], "seed=a must be a whole number from 0 to 4294967295"),
        (["seed=0,1.5"], "seed=1.5 must be a whole number"),
        (["seed=-1"], "seed=-1 must be a whole number"),
        (["threads=0"], "threads=0 must be a whole number from 1, or null"),
        (["device=gpu"], "device=gpu cannot be used here; there are: cpu"),
        (
            ["+decomposer=svd", "+decomposer.rank=4"],
            "nothing reads the field decomposer: a point has device, force, kernel_cache, ",
        ),
        (
            ["experiment=digits", "method=svd"],
            "Could not override 'method.sparsity=0.55': the grid of the experiment sets it, "
            "and what the command line chose",
        ),
        (
            ["method=random", "norm=full"],
            "RandomPruning cannot approximate in the norm Full: it supports Identity",
        ),
        (
            ["method=magnitude,alps", "norm=full", "values=float16"],
            "MagnitudePruning cannot approximate in the norm Full",
        ),
        (["method=lora_quantized", "norm=full"], "Quantization cannot approximate in the norm"),
        (["method=svd_global", "norm=full"], "GlobalRank cannot approximate in the norm Full"),
        (
            ["method=svd_llm,asvd", "norm=identity"],
            "norm=identity takes no damping, which the recipe of the method or the command",
        ),
        (["results=/dev/null/results"], "results cannot be written to /dev/null/results"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said_before_it_starts(cache, tmp_path, arguments, text):
    finished = run(cache, f"results={tmp_path}", *arguments)
    assert finished.returncode == 1
    assert text in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not list(tmp_path.iterdir())


def test_a_broken_record_stops_the_sweep_unless_it_is_forced(cache, tmp_path):
    arguments = ("method.rank=4", f"results={tmp_path}")
    run(cache, *arguments)
    (path,) = tmp_path.glob("*.json")
    path.write_text("")
    finished = run(cache, *arguments)
    assert finished.returncode == 1
    assert f"{path} is not a whole record" in finished.stderr
    assert "Traceback" not in finished.stderr and path.read_text() == ""
    assert run(cache, *arguments, "force=true").returncode == 0
    assert store.exists(path.stem, tmp_path)


def test_two_sweeps_by_one_name_in_one_folder_are_not_reported_as_one(cache, tmp_path):
    finished = run(
        cache,
        f"results={tmp_path}",
        "method=magnitude",
        "method.pattern=rows,unstructured",
        "where=all,inner",
    )
    assert finished.returncode == 0, finished.stderr
    with pytest.raises(ValueError, match="method 'magnitude' differ in where.first"):
        curves.summarise(store.load(tmp_path), ["top1"])


def test_one_impossible_point_of_many_is_said_before_any_is_run(cache, tmp_path):
    finished = run(cache, f"results={tmp_path}", "method.rank=1,2,3,4,5,6,7,8,65")
    assert finished.returncode == 1
    why = "method.rank=65: layer 'fc1': rank=65 does not fit a weight of shape (128, 64)"
    assert why in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stderr.startswith("Nothing was run, because of\n")
    assert not list(tmp_path.iterdir())


def test_an_error_that_nobody_expected_shows_where_it_arose(cache, tmp_path, monkeypatch):
    write_faulty(tmp_path, monkeypatch, "return weight.no_such_name")
    folder = tmp_path / "records"
    finished = run(cache, f"results={folder}", "method._target_=faulty.Faulty")
    assert finished.returncode == 1
    assert "AttributeError: 'Tensor' object has no attribute 'no_such_name'" in finished.stderr
    assert "Traceback" in finished.stderr and "return weight.no_such_name" in finished.stderr
    assert "1 points: 0 had their record, 0 measured here, 0 by others, 1 failed" in finished.stdout
    assert not records(folder)


def test_offline_tracker_mirrors_each_point_and_the_curves(cache, tmp_path):
    finished = run(
        cache,
        f"results={tmp_path / 'records'}",
        "method.rank=4,8",
        "tracker=offline",
        f"tracker.folder={tmp_path}",
    )
    assert finished.returncode == 0
    assert "warning" not in finished.stderr
    assert len(list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))) == 3


def test_a_tracker_that_fails_loses_no_record(cache, tmp_path):
    finished = run(
        cache,
        f"results={tmp_path}",
        "method.rank=4",
        "tracker=offline",
        "tracker.project=a/b",
    )
    assert finished.returncode == 0
    assert finished.stderr.count("warning: the tracker failed, the records are safe") == 2
    assert len(records(tmp_path)) == 1
