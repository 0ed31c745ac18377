"""Of several processes one holds a claim, and a dead one's goes to one other."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from lowrank.files.atomic import clean
from lowrank.files.processes import Owner, this_process
from lowrank.records.claims import Claims

KEY = "0123456789abcdef"

# Takes every point that it can get, writes down that it has it, and comes back to the others.
WORKER = """
import sys, time
from pathlib import Path
from lowrank.records.claims import Claims
folder, left = Path(sys.argv[1]), [f"{number:016x}" for number in range(25)]
while left:
    for key in list(left):
        with Claims(folder).taking(key) as is_ours:
            if (folder / f"{key}.done").exists():
                left.remove(key)
            elif is_ours:
                with open(folder / "log", "a") as log:
                    log.write(f"{key}\\n")
                time.sleep(0.005)
                (folder / f"{key}.done").touch()
"""
# Likewise in an order of its own, and says when it begins and ends.
LOGGING = """
import os, random, sys, time
from pathlib import Path
from lowrank.records.claims import Claims
folder, left = Path(sys.argv[1]), [f"{number:016x}" for number in range(30)]
random.seed(int(sys.argv[2]))
random.shuffle(left)
def log(what, key):
    with open(folder / "log", "a") as log:
        log.write(f"{what} {os.getpid()} {key}\\n")
while left:
    for key in list(left):
        if random.random() < 0.1:
            Claims(folder).clean()
        with Claims(folder).taking(key) as is_ours:
            if (folder / f"{key}.done").exists():
                left.remove(key)
            elif is_ours:
                log("begin", key)
                time.sleep(random.random() * 0.05)
                (folder / f"{key}.done").touch()
                log("end", key)
"""
HOLDER = """
import sys, time
from pathlib import Path
from lowrank.records.claims import Claims
with Claims(Path(sys.argv[1])).taking(sys.argv[2]) as is_ours:
    time.sleep(60 if is_ours else 0)
"""


def run(script, *arguments):
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)])


def holder(folder, key=KEY):
    """Another process that holds a claim."""
    before = set(folder.glob("*.claim"))
    process = run(HOLDER, folder, key)
    while not any(path.stat().st_size for path in set(folder.glob("*.claim")) - before):
        assert process.poll() is None
        time.sleep(0.005)
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def write(path, owner, age=0.0):
    """A claim of somebody else's, its last heartbeat some seconds ago."""
    token = f"{abs(hash(path.name)) % 16**32:032x}"
    said = {"host": owner.host, "pid": owner.pid, "started": owner.started, "token": token}
    path.write_text(json.dumps(said))
    make_old(path, age)
    return token


def make_old(path, age):
    then = time.time() - age
    os.utime(path, (then, then))


def is_taken(claims, key=KEY):
    with claims.taking(key) as is_ours:
        return is_ours


def test_a_claim_is_held_once_and_given_up(tmp_path):
    first, second = Claims(tmp_path), Claims(tmp_path)
    with first.taking(KEY) as is_ours:
        assert is_ours and first.is_held(KEY) and second.is_held(KEY)
        assert not is_taken(second)
        assert is_taken(second, "other")
    assert not second.is_held(KEY) and not list(tmp_path.iterdir())
    assert is_taken(second)


def test_it_is_given_up_after_an_error_too(tmp_path):
    with pytest.raises(RuntimeError), Claims(tmp_path).taking(KEY):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_of_processes_at_once_one_has_each_point(tmp_path):
    processes = [run(WORKER, tmp_path) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    counts = Counter((tmp_path / "log").read_text().split())
    assert len(counts) == 25 and set(counts.values()) == {1}
    assert not list(tmp_path.glob("*.claim"))


def test_processes_that_are_killed_at_random_leave_each_point_to_one(tmp_path):
    """Only who died may have begun a point that another one begins."""
    rng, killed = random.Random(0), set()
    running = [run(LOGGING, tmp_path, number) for number in range(3)]
    while running:
        time.sleep(rng.random() * 0.2)
        running = [process for process in running if process.poll() is None]
        if running and len(killed) < 6 and (tmp_path / "log").exists():
            victim = running.pop()
            kill(victim)
            killed.add(victim.pid)
            running.insert(0, run(LOGGING, tmp_path, victim.pid))
    holder_of: dict[str, int] = {}
    for line in (tmp_path / "log").read_text().splitlines():
        what, pid, key = line.split()
        assert holder_of.get(key, int(pid)) in {int(pid), *killed}, line
        holder_of[key] = int(pid)
        if what == "end":
            del holder_of[key]
    Claims(tmp_path).clean()
    # Who was killed before it wrote into its claim is known to be dead when that is old.
    assert not [path for path in tmp_path.glob("*.claim") if path.stat().st_size]


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path):
    process = holder(tmp_path)
    assert Claims(tmp_path).is_held(KEY) and not is_taken(Claims(tmp_path))
    kill(process)
    assert not Claims(tmp_path).is_held(KEY)
    with Claims(tmp_path).taking(KEY) as is_ours:
        assert is_ours and not is_taken(Claims(tmp_path))
    assert not list(tmp_path.iterdir())


def test_one_process_after_the_other_may_die(tmp_path):
    for _ in range(3):
        kill(holder(tmp_path))
    assert len(list(tmp_path.glob("*.claim"))) == 3
    assert is_taken(Claims(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_number_that_another_process_has_by_now_is_not_alive(tmp_path):
    own = this_process()
    assert not own.is_gone
    write(tmp_path / f"{KEY}.claim", Owner(own.host, own.pid, own.started - 1))
    assert is_taken(Claims(tmp_path))


@pytest.mark.parametrize(("age", "is_free"), [(0, False), (50, False), (70, True), (-500, False)])
def test_of_another_machine_only_the_heartbeat_is_known(tmp_path, age, is_free):
    write(tmp_path / f"{KEY}.claim", Owner("elsewhere", os.getpid(), 1), age)
    assert is_taken(Claims(tmp_path, timeout=60)) == is_free


def test_a_process_of_this_machine_that_no_longer_beats_is_dead(tmp_path):
    write(tmp_path / f"{KEY}.claim", this_process(), age=61)
    assert is_taken(Claims(tmp_path, timeout=60))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff\xfe\x00",
        b'{"host": "a"}',
        b'{"host": "a", "pid": "x", "started": 1, "token": "t"}',
        b'{"host": "a", "pid": 1, "started": 1, "token": "../../escaped"}',
        b"[" * 9000,
    ],
)
def test_a_claim_that_cannot_be_read_is_alive_as_long_as_it_beats(tmp_path, content):
    path, claims = tmp_path / f"{KEY}.claim", Claims(tmp_path, timeout=60)
    path.write_bytes(content)
    assert claims.is_held(KEY) and not is_taken(claims)
    make_old(path, 61)
    # Another took it over, and died while it was writing.
    assert is_taken(claims)
    assert not list(tmp_path.iterdir())


def test_a_torn_successor_of_a_torn_claim(tmp_path):
    path, claims = tmp_path / f"{KEY}.claim", Claims(tmp_path, timeout=60)
    path.write_bytes(b"")
    make_old(path, 61)
    with claims.taking(KEY):
        (successor,) = set(tmp_path.glob("*.claim")) - {path}
        successor.write_bytes(b"")
    path.write_bytes(b"")
    successor.write_bytes(b"")
    make_old(path, 61)
    assert not is_taken(claims)
    make_old(successor, 61)
    assert is_taken(claims)


def test_of_many_that_find_a_dead_claim_one_gets_it(tmp_path):
    for attempt in range(20):
        key = f"{attempt:016x}"
        write(tmp_path / f"{key}.claim", Owner("elsewhere", 1, 1), age=1000)
        count = 8
        begin, end = threading.Barrier(count), threading.Barrier(count)
        found: list[bool] = []

        def attempt_it(key=key, begin=begin, end=end, found=found):
            begin.wait()
            with Claims(tmp_path).taking(key) as is_ours:
                found.append(is_ours)
                end.wait()  # Nobody gives up before all have tried.

        threads = [threading.Thread(target=attempt_it) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(found) == 1
        assert not list(tmp_path.glob(f"{key}*"))


def test_a_living_claim_beats(tmp_path):
    claims = Claims(tmp_path, timeout=0.4)
    with claims.taking(KEY):
        path = tmp_path / f"{KEY}.claim"
        make_old(path, 100)
        deadline = time.time() + 10
        while path.stat().st_mtime < time.time() - 50:
            assert time.time() < deadline
            time.sleep(0.01)
        assert claims.is_held(KEY)


def test_a_chain_that_was_given_up_while_it_was_read_is_not_joined(tmp_path, monkeypatch):
    """Between reading a dead claim and taking it over, another took it over and was done."""
    token = write(tmp_path / f"{KEY}.claim", Owner("elsewhere", 1, 1), age=1000)
    claims = Claims(tmp_path)
    from lowrank.records import claims as module

    make = module._make

    def too_late(path, token):
        (tmp_path / f"{KEY}.claim").unlink()
        return make(path, token)

    monkeypatch.setattr(module, "_make", too_late)
    assert not is_taken(claims)
    monkeypatch.undo()
    assert not list(tmp_path.glob(f"{KEY}.{token}.claim"))
    assert is_taken(claims)


def test_what_a_killed_process_left_while_it_gave_up_holds_nothing_and_is_cleaned(tmp_path):
    """The first file of its chain is gone, the others are not."""
    write(tmp_path / f"{KEY}.{'a' * 32}.claim", Owner("elsewhere", 1, 1))
    write(tmp_path / f"{KEY}.{'b' * 32}.claim", this_process())
    assert not Claims(tmp_path).is_held(KEY)
    assert is_taken(Claims(tmp_path))
    Claims(tmp_path).clean()
    assert not list(tmp_path.iterdir())


def test_one_that_stalled_leaves_the_claim_of_another_that_came_after_its_successor(tmp_path):
    stalled, others = Claims(tmp_path, timeout=1000), Claims(tmp_path, timeout=60)
    with stalled.taking(KEY):
        make_old(tmp_path / f"{KEY}.claim", 61)
        assert is_taken(others)  # Took it over, and was done.
        third = others.taking(KEY)
        assert third.__enter__()
    assert others.is_held(KEY) and not is_taken(others)
    third.__exit__(None, None, None)
    assert not list(tmp_path.iterdir())


def test_one_that_stalled_leaves_its_successor_the_claim(tmp_path):
    others = Claims(tmp_path, timeout=60)
    with Claims(tmp_path, timeout=1000).taking(KEY):
        make_old(tmp_path / f"{KEY}.claim", 61)
        successor = others.taking(KEY)
        assert successor.__enter__()
    assert others.is_held(KEY) and not is_taken(others)
    successor.__exit__(None, None, None)
    assert not list(tmp_path.iterdir())


def test_one_that_stalled_keeps_no_other_alive(tmp_path):
    path = tmp_path / f"{KEY}.claim"
    with Claims(tmp_path, timeout=0.4).taking(KEY):
        path.unlink()
        write(path, Owner("elsewhere", 1, 1), age=1000)
        time.sleep(0.3)
        assert path.stat().st_mtime < time.time() - 500
    assert path.exists()


def test_taking_a_claim_looks_at_no_other_file(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the folder was searched")

    for name in ("glob", "iterdir"):
        monkeypatch.setattr(type(tmp_path), name, refuse)
    assert is_taken(Claims(tmp_path))


def test_cleaning_takes_the_dead_and_leaves_the_living(tmp_path):
    process = holder(tmp_path, "living")
    kill(holder(tmp_path, "dead"))
    write(tmp_path / "far.claim", Owner("elsewhere", 1, 1))
    write(tmp_path / "stale.claim", Owner("elsewhere", 1, 1), age=1000)
    (tmp_path / "record.json").touch()
    Claims(tmp_path).clean()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["far.claim", "living.claim", "record.json"]
    kill(process)


def test_where_no_claim_can_be_made_the_error_names_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=KEY):
        is_taken(Claims(tmp_path / "file"))


DIES_AT_THE_CLOCK = """
import os, pathlib, sys
from lowrank.records.claims import Claims
pathlib.Path.unlink = lambda *_, **__: os._exit(9)
Claims(pathlib.Path(sys.argv[1])).now()
"""


def test_killed_at_the_clock_of_the_file_system_it_leaves_what_cleaning_takes(tmp_path):
    assert run(DIES_AT_THE_CLOCK, tmp_path).wait() == 9
    assert len(list(tmp_path.iterdir())) == 1
    clean(tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_the_disk_is_full_no_claim_stays(tmp_path, monkeypatch):
    from lowrank.records import claims as module

    def full(said):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.json, "dumps", full)
    with pytest.raises(OSError, match=f"No space left on device: .*{KEY}.claim"):
        is_taken(Claims(tmp_path))
    assert not list(tmp_path.iterdir())
