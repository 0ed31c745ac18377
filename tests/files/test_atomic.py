"""Files appear whole or not at all, and nothing stays of what was not finished."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lowrank.files import atomic, processes

WRITER = """
import pathlib, sys, time
from lowrank.files import atomic
with atomic.replacing(pathlib.Path(sys.argv[1])) as file:
    file.write_text("half")
    print("now", flush=True)
    time.sleep(60)
"""


def killed_while_writing(path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    (left,) = [file for file in path.parent.iterdir() if file.suffix == ".tmp"]
    return left


def write(path, text):
    with atomic.replacing(path) as file:
        file.write_text(text)


def temporary(folder, host=None, process=1, started=None, age=0.0):
    """A file as another writer would have left it."""
    parts = atomic.temporary_in(folder, "result").name.split("-")
    started = processes._started(process) if started is None else started
    parts[2:5] = host or parts[2], str(process), str(started or 0)
    path = folder / "-".join(parts)
    path.write_text("half")
    when = time.time() - age
    os.utime(path, (when, when))
    return path


def dead_process():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_a_killed_writer_left_goes_with_the_first_file_of_another_process(tmp_path):
    killed_while_writing(tmp_path / "result")
    write(tmp_path / "other", "other")
    assert [file.name for file in tmp_path.iterdir()] == ["other"]
    write(tmp_path / "result", "whole")
    assert (tmp_path / "result").read_text() == "whole"


def test_a_process_looks_through_a_folder_once(tmp_path, monkeypatch):
    looks, look = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (looks.append(path), look(path))[1])
    for number in range(5):
        write(tmp_path / f"{number}", "text")
    assert looks == [tmp_path]
    (tmp_path / "own").mkdir()
    write(tmp_path / "own" / "0", "text")
    assert looks == [tmp_path, tmp_path / "own"]


def test_what_killed_writers_left_of_any_file_can_be_cleaned_away(tmp_path):
    killed_while_writing(tmp_path / "result")
    (tmp_path / "notes.tmp").write_text("somebody's own")
    atomic.clean(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.tmp"]


def test_what_others_are_writing_stays(tmp_path):
    day = 24 * 3600
    living = [
        temporary(tmp_path, process=os.getpid()),
        temporary(tmp_path, process=os.getppid()),
        temporary(tmp_path, host="0" * 8, process=dead_process()),
        temporary(tmp_path, host="0" * 8, process=dead_process(), age=day - 60),
    ]
    dead = [
        temporary(tmp_path, process=dead_process()),
        temporary(tmp_path, process=10**30),
        temporary(tmp_path, process=os.getpid(), started=1),  # The number is another's by now.
        temporary(tmp_path, host="0" * 8, age=day + 60),
        temporary(tmp_path, process=os.getpid(), age=day + 60),
    ]
    atomic.clean(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in living}
    assert not any(path.exists() for path in dead)


def test_writers_at_once_never_take_each_others_files(tmp_path):
    errors, texts = [], [str(number) * 50_000 for number in range(8)]

    def many(text):
        try:
            for _ in range(30):
                write(tmp_path / "result", text)
                atomic.clean(tmp_path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=many, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (tmp_path / "result").read_text() in texts
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_leaves_what_was_there(tmp_path):
    write(tmp_path / "result", "old")
    with pytest.raises(RuntimeError, match="no more"), atomic.replacing(tmp_path / "result") as f:
        f.write_text("new")
        raise RuntimeError("no more")
    assert (tmp_path / "result").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "missing" / "result"
    with pytest.raises(FileNotFoundError) as caught:
        write(path, "x")
    assert caught.value.filename == str(path) and "lowrank" not in str(caught.value)
    with pytest.raises(PermissionError) as caught, atomic.replacing(tmp_path / "result") as file:
        raise PermissionError(13, "Permission denied", str(file))
    assert str(tmp_path / "result") in str(caught.value) and ".tmp" not in str(caught.value)
    with pytest.raises(OSError, match="elsewhere"), atomic.replacing(tmp_path / "result"):
        raise OSError(28, "No space left on device", "elsewhere")


def test_a_chain_of_links_and_one_to_nothing(tmp_path):
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to("third")
    write(tmp_path / "first", "x")
    assert (tmp_path / "third").read_text() == "x"
    assert (tmp_path / "first").is_symlink() and (tmp_path / "second").is_symlink()


def test_a_folder_that_others_own_is_no_reason_to_fail(tmp_path, monkeypatch):
    left = temporary(tmp_path, process=dead_process())

    def refuse(path, **_):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "unlink", refuse)
    atomic.clean(tmp_path)
    assert left.exists()


def test_folders_that_a_new_one_cannot_take_the_place_of_are_refused_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path, text in (
        (tmp_path / "file" / "new", "cannot be made, since .*file is no folder"),
        (tmp_path / "here", "the folder that this runs in"),
        (atomic.Path("."), "the folder that this runs in"),
        (tmp_path, "is there already"),
    ):
        with pytest.raises(ValueError, match=text), atomic.new_folder(path):
            raise AssertionError("nothing is begun")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(tmp_path / "disk"))
    (tmp_path / "disk").mkdir()
    with pytest.raises(ValueError, match="disk is where a disk is mounted"):
        atomic.check_new(tmp_path / "disk")
    atomic.check_empty(tmp_path / "disk")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "here", "disk"}


def test_an_error_of_a_library_names_the_folder(tmp_path):
    with (
        pytest.raises(OSError, match="new cannot be written: 9 requested and 4 written"),
        atomic.new_folder(tmp_path / "new"),
    ):
        raise OSError("9 requested and 4 written")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("days", [-30, 30])
def test_a_machine_with_another_clock_takes_nothing_for_abandoned(days, tmp_path, monkeypatch):
    being_written = temporary(tmp_path, host="elsewher")
    left = temporary(tmp_path, host="elsewher", age=atomic.ABANDONED + 60)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + days * 24 * 3600)
    atomic.clean(tmp_path)
    assert being_written.exists() and not left.exists()


@pytest.mark.parametrize(("times", "is_there"), [(1, True), (3, True), (1, False), (999, True)])
def test_a_file_that_another_machine_replaces_is_opened_again(
    times, is_there, tmp_path, monkeypatch
):
    path, whole, tries = tmp_path / "record", Path.open, []
    if is_there:
        path.write_text("new")

    def stale(self, *args, **options):
        tries.append(self)
        if len(tries) <= times:
            raise OSError(errno.ESTALE, "Stale file handle", str(self))
        return whole(self, *args, **options)

    monkeypatch.setattr(Path, "open", stale)
    if times == 999 or not is_there:
        with pytest.raises(FileNotFoundError, match="record"):
            atomic.read_replaced(path)
    else:
        assert atomic.read_replaced(path, 2)[0] == b"ne"
