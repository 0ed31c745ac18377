"""Which points a sweep runs again, and what it counts."""

from pathlib import Path

import pytest

from experiments import launching
from experiments.launching import launch_all
from experiments.place import counting
from experiments.plan import SweepJob
from experiments.progress import Progress
from lowrank.files.processes import Owner
from lowrank.records.claims import Claims


def job(number: int, folder: Path) -> SweepJob:
    return SweepJob([f"rank={number}"], {"rank": number, "results": str(folder), "force": False})


def launcher(answers):
    """Gives the jobs' outcomes in turn, and notes which jobs were launched together."""
    launched = []

    def launch(jobs):
        launched.append([job.settings["rank"] for job in jobs])
        return [answers[job.settings["rank"]].pop(0) for job in jobs]

    return launch, launched


def launched_all(jobs, launch):
    with counting(jobs, len(jobs), 0) as place:
        return launch_all(jobs, launch, Progress(place))


def test_each_way_to_end_is_counted(tmp_path):
    answers = {1: ["measured"], 2: ["failed"], 3: ["present"], 4: ["measured"]}
    launch, launched = launcher(answers)
    ended = launched_all([job(n, tmp_path) for n in answers], launch)
    assert ended == {"measured": 2, "failed": 1, "present": 1}
    assert launched == [[1, 2, 3, 4]]


def test_a_lost_point_is_tried_once_more_and_then_fails(tmp_path, capsys):
    answers = {1: ["lost", "measured"], 2: ["lost", "lost"], 3: ["measured"]}
    launch, launched = launcher(answers)
    ended = launched_all([job(n, tmp_path) for n in answers], launch)
    assert ended == {"measured": 2, "failed": 1}
    assert launched == [[1, 2, 3], [1, 2]]
    said = capsys.readouterr().err
    assert said.count("was killed; the point is measured again") == 2
    assert "FAILED rank=2: its worker was killed 2 times" in said


def test_a_claimed_point_is_waited_for_until_its_claim_is_dead(tmp_path, capsys, monkeypatch):
    """One that is free at once is launched, while another is still held."""
    held, free = job(1, tmp_path), job(2, tmp_path)
    claim = tmp_path / f"{held.key}.claim"
    owner = Owner("elsewhere", 1, 1)
    said = f'{{"host": "{owner.host}", "pid": 1, "started": 1, "token": "{"0" * 32}"}}'
    claim.write_text(said)
    assert Claims(tmp_path).is_held(held.key)
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        claim.unlink()  # It was given up.

    monkeypatch.setattr(launching.time, "sleep", sleep)
    launch, launched = launcher({1: ["claimed", "present"], 2: ["claimed", "measured"]})
    ended = launched_all([held, free], launch)
    assert ended == {"measured": 1, "present": 1}
    assert launched == [[1, 2], [2], [1]]
    assert len(pauses) == 1
    assert capsys.readouterr().err == "waiting for 1 points that other processes are measuring\n"


def test_an_error_of_the_launcher_itself_ends_the_sweep(tmp_path):
    def launch(jobs):
        raise RuntimeError("no more processes")

    with pytest.raises(RuntimeError, match="no more processes"):
        launched_all([job(1, tmp_path)], launch)
