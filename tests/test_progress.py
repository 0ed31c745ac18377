"""The line that a sweep prints for each point, and the place in it."""

import os
import time
from dataclasses import replace

import pytest

from experiments.place import counting
from experiments.plan import SweepJob
from experiments.progress import Progress, watching
from lowrank.records.claims import Claims

RECORD = {
    "task": "digits",
    "model": "mlp",
    "method": "gptq",
    "level": 3,
    "seed": 1,
    "norm": "full",
    "recovery": "tune",
    "metrics": [{"name": name} for name in ("mse", "top1", "word_perplexity", "loss")],
    "dense": {"loss": 0.1, "top1": 0.98},
    "compressed": {"loss": 0.2, "top1": 0.5},
    "ratios": {"compression_ratio": 7.1234},
    "timings": {"total_s": 0.51},
}


def job(number, folder):
    return SweepJob([f"rank={number}"], {"rank": number, "results": str(folder), "force": False})


def measure(one):
    """Leave what stands for the record of a point."""
    (one.folder / f"{one.key}.json").touch()


@pytest.fixture
def jobs(tmp_path):
    return [job(number, tmp_path) for number in range(4)]


@pytest.fixture
def only(jobs):
    """The progress of a sweep of one point."""
    with counting(jobs[:1], 1, 0) as place:
        yield Progress(place)


@pytest.mark.parametrize(
    "changes, point",
    [
        ({}, "gptq 3, full norm + tune, seed 1"),
        ({"norm": "identity", "recovery": "none", "level": None}, "gptq, seed 1"),
    ],
)
def test_it_says_which_point_it_is_and_what_came_out(changes, point, jobs, capsys):
    with counting(jobs[:2], total=4, done=2) as place:
        measure(jobs[1])
        Progress(place).finished(RECORD | changes)
    expected = f"[3/4, 0:00 left] digits mlp {point}  top1 0.500 (dense 0.980)  7.12x  0.5 s\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    "ratios, size",
    [
        ({"layers_bits_per_weight": 4.321}, "7.12x, 4.32 bits"),
        (
            {"layers_bits_per_weight": 4.321, "coverage": 0.2},
            "7.12x, 4.32 bits, 20 % of weights comp",
        ),
        ({"coverage": 0.9949}, "7.12x, 99.5 % of weights compressed"),
        ({"coverage": 0.9951}, "7.12x  0.5 s"),
        ({"coverage": 1.0}, "7.12x  0.5 s"),
    ],
)
def test_a_ratio_comes_with_bits_and_with_what_was_compressed(ratios, size, only, capsys):
    only.finished(RECORD | {"ratios": RECORD["ratios"] | ratios})
    assert f"  {size}" in capsys.readouterr().out


@pytest.mark.parametrize("count, said", [(1, "1 layer left as it is"), (3, "3 layers left as")])
def test_layers_that_could_not_be_compressed_are_counted(count, said, only, capsys):
    only.finished(RECORD | {"left": [["fc", "too small"]] * count})
    assert f"  7.12x, {said}" in capsys.readouterr().out


def test_a_task_of_another_kind_shows_what_it_measures_first(only, capsys):
    measures = {"dense": {"mse": 1.0, "mae": 2.0}, "compressed": {"mse": 3.0, "mae": 4.0}}
    only.finished(RECORD | measures)
    assert "  mse 3.000 (dense 1.000)  " in capsys.readouterr().out


def test_a_failure_says_why_and_goes_to_stderr(jobs, capsys):
    with counting(jobs[:2], total=2, done=0) as place:
        Progress(place).failed("method.rank=99", jobs[0].key, "too large")
    printed = capsys.readouterr()
    assert printed.err.startswith("[1/2, 0:00 left] FAILED method.rank=99: too large")
    assert not printed.out


def test_a_measure_that_one_model_lacks_is_not_shown(only, capsys):
    """The perplexity of words may be beyond all numbers for one of the two."""
    changes = {"dense": {"loss": 0.5}, "compressed": {"word_perplexity": 9.0, "loss": 0.75}}
    only.finished(RECORD | changes)
    assert "  loss 0.750 (dense 0.500)  " in capsys.readouterr().out


def test_two_models_without_a_measure_in_common_have_no_quality(only, capsys):
    only.finished(RECORD | {"dense": {}})
    assert "seed 1  no quality  7.12x" in capsys.readouterr().out


def test_the_count_is_that_of_all_who_work_on_these_points(jobs, capsys, tmp_path):
    folder = str(tmp_path)
    with counting([*jobs, jobs[0]], total=8, done=3) as place:
        assert place.said() == "[3/8]"
        measure(jobs[1])
        measure(job(99, tmp_path))  # Of another sweep.
        place.fail(jobs[2].key)
        Progress(place).present("rank=1")
        measure(jobs[2])  # Where it failed here, another machine did not.
        measure(jobs[0])  # It is in the list twice.
        assert place.count() == 4
        # As another machine sees it, and one without the folder.
        elsewhere = replace(place, failures=tmp_path / "nothing there" / "failures")
        elsewhere.fail(jobs[3].key)
        assert elsewhere.said() == "[7/8, 0:00 left]"
        nowhere = replace(place, waited={str(tmp_path / "nothing there"): place.waited[folder]})
        assert nowhere.said() == "" and nowhere.count() is None
    assert capsys.readouterr().out == "[5/8, 0:00 left] rank=1  was measured by another process\n"
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_an_old_record_counts_when_it_was_made_again(jobs):
    for one in jobs[:2]:
        measure(one)
        os.utime(one.folder / f"{one.key}.json", (1, 1))
    with counting(jobs, total=4, done=0) as place:
        assert place.count() == 0
        then = place.since(str(jobs[0].folder)) + 1
        os.utime(jobs[0].folder / f"{jobs[0].key}.json", (then, then))
        assert place.count() == 1


def test_the_time_left_is_that_of_the_clock_of_the_file_system(jobs, monkeypatch):
    """Whatever that of the machine says."""
    with counting(jobs, total=4, done=0) as place:
        measure(jobs[0])
        monkeypatch.setattr(time, "time", lambda: 0.0)
        ((folder, waited),) = place.waited.items()
        # The sweep began so many seconds ago, or the clock was set back.
        for ago, left in ((100, "5:00"), (-100, "0:00")):
            moved = {folder: replace(waited, since=waited.since - ago)}
            assert replace(place, waited=moved).said() == f"[1/4, {left} left]"


def test_what_is_done_elsewhere_is_said_now_and_then(jobs, capsys):
    with counting(jobs, total=4, done=0) as place, watching(place, period=0.01):
        measure(jobs[0])
        said = ""
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            said = capsys.readouterr().out
            time.sleep(0.01)
        time.sleep(0.05)
    assert said == "[1/4, 0:00 left] by all who work on these points\n"
    assert not capsys.readouterr().out


def test_a_place_that_cannot_be_known_is_not_said(jobs, capsys, monkeypatch):
    def full(claims):
        raise OSError("no space left on device")

    with counting(jobs, total=4, done=0) as place:
        monkeypatch.setattr(Claims, "now", full)
        with watching(place, period=0.01):
            measure(jobs[0])
            time.sleep(0.1)
    assert not capsys.readouterr().out
