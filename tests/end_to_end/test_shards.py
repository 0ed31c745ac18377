"""The points of a sweep divided among machines that know nothing of each other."""

import re

import pytest
from sweeps import records, run

from experiments.plan import SweepJob
from experiments.shards import Shard, shard_of


def jobs(count: int, shard: str | None = None) -> list[SweepJob]:
    settings = [{"rank": n, "results": "r", "shard": shard} for n in range(count)]
    return [SweepJob([f"rank={one['rank']}"], one) for one in settings]


@pytest.mark.parametrize("count, total", [(0, 3), (1, 3), (7, 3), (16, 16), (100, 7), (5, 9)])
def test_each_point_is_in_one_shard_and_they_are_of_like_size(count, total):
    points = jobs(count)
    parts = [Shard(number, total).own(points) for number in range(1, total + 1)]
    assert [job for part in parts for job in part] == points
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_two_jobs_of_one_point_are_in_one_shard():
    """As 2 and 2.0 are one value of a hyperparameter."""
    points = jobs(4)
    twice = [*points, SweepJob(["rank=0.0"], points[0].settings | {"rank": 0.0})]
    parts = [Shard(number, 2).own(twice) for number in (1, 2)]
    assert [len(part) for part in parts] == [3, 2]
    assert not {job.key for job in parts[0]} & {job.key for job in parts[1]}


def test_the_shard_is_no_part_of_the_point():
    assert {job.key for job in jobs(3)} == {job.key for job in jobs(3, "1/2")}
    assert shard_of(jobs(3, "2/3")) == Shard(2, 3)
    assert shard_of(jobs(3)) == shard_of([]) == Shard(1, 1)


@pytest.mark.parametrize("text", ["0/16", "17/16", "a/b", "3", "3/", "1/0", "-1/2", "1/2/3", ""])
def test_what_is_no_shard(text):
    with pytest.raises(SystemExit, match=f"shard={re.escape(text)} must be a number from 1"):
        shard_of(jobs(1, text))


def test_several_shards_in_one_command_are_an_error():
    both = [*jobs(1, "1/2"), *jobs(1, "2/2")]
    with pytest.raises(SystemExit, match="shard=1/2,2/2 must be one shard: start a sweep for each"):
        shard_of(both)


def test_the_error_is_said_before_anything_is_run(cache, tmp_path):
    finished = run(cache, f"results={tmp_path}", "shard=17/16")
    assert finished.returncode == 1
    assert finished.stderr.startswith("Nothing was run, because of\nshard=17/16 must be a number")
    assert finished.stderr.count("\n") == 2
    assert not list(tmp_path.iterdir())


def test_shards_without_a_common_folder_make_the_records_of_the_whole_sweep(cache, tmp_path):
    points, whole = "method.rank=2,3,4", tmp_path / "whole"
    assert run(cache, points, f"results={whole}").returncode == 0
    parts: dict[str, dict] = {}
    for number, count in ((1, 1), (2, 2)):
        folder = tmp_path / str(number)
        finished = run(cache, points, f"results={folder}", f"shard={number}/2")
        assert finished.returncode == 0, finished.stderr
        assert f"\n{count} points: 0 had their record, {count} measured here" in finished.stdout
        assert f"[{count}/{count}, 0:00 left]" in finished.stdout
        said = f"shard {number}/2: {count} of the 3 points of all shards have their record here\n"
        assert finished.stdout.endswith(said)
        found = records(folder)
        assert not parts.keys() & found.keys()
        assert {record["config"].pop("shard") for record in found.values()} == {f"{number}/2"}
        parts |= found
    expected = records(whole)
    assert [record["config"].pop("shard") for record in expected.values()] == [None] * 3
    assert parts == expected
    # Where the records of all are, it measures nothing anew, and says which command reports them.
    again = run(cache, points, f"results={whole}", "shard=1/2")
    assert "1 points: 1 had their record, 0 measured here" in again.stdout
    said = "3 of the 3 points of all shards have their record here"
    command = f"python -m experiments.report runs={whole} reports them"
    assert again.stdout.endswith(f"shard 1/2: {said}; {command}\n")


def test_a_shard_without_points_has_nothing_to_do(cache, tmp_path):
    finished = run(cache, "method.rank=2", f"results={tmp_path}", "shard=1/3")
    assert finished.returncode == 0, finished.stderr
    assert "0 points: 0 had their record, 0 measured here" in finished.stdout
    assert "shard 1/3: 0 of the 1 points" in finished.stdout
