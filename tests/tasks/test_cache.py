import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from lowrank.tasks import cache

CONFIG = {"b": [1, 2], "a": None}


def ones():
    return {"weight": torch.ones(3)}


def never():
    raise AssertionError("made again")


def test_made_once_then_read(fresh_cache):
    made = cache.tensors("models", CONFIG, ones)
    read = cache.tensors("models", {"a": None, "b": [1, 2]}, never)
    assert torch.equal(made["weight"], read["weight"])
    assert len(list((fresh_cache / "models").glob("*.safetensors"))) == 1


def test_another_config_is_another_file():
    cache.tensors("models", CONFIG, ones)
    other = cache.tensors("models", CONFIG | {"a": 1}, lambda: {"weight": torch.zeros(2)})
    assert torch.equal(other["weight"], torch.zeros(2))


def test_tensors_that_share_memory_are_kept():
    weight = torch.arange(6.0)
    content = {"first": weight, "second": weight, "part": weight.view(2, 3).T}
    kept = cache.tensors("models", CONFIG, lambda: content)
    assert all(torch.equal(kept[name], content[name]) for name in content)


def test_a_folder_below_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(cache.CACHE_VARIABLE, "~/own")
    assert cache.folder() == tmp_path / "own"
    monkeypatch.delenv(cache.CACHE_VARIABLE)
    assert cache.folder() == tmp_path / ".cache" / "lowrank"


def test_a_folder_that_may_only_be_read_is_of_use_if_something_is_in_it(fresh_cache, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    cache.check("models")
    assert not list((fresh_cache / "models").iterdir())
    monkeypatch.setattr(type(fresh_cache), "touch", refuse)
    with pytest.raises(ValueError, match="Permission denied.* set LOWRANK_CACHE to a folder that"):
        cache.check("models")
    (fresh_cache / "models" / "kept.safetensors").write_text("")
    cache.check("models")


def test_what_fails_is_not_kept():
    with pytest.raises(AssertionError, match="made again"):
        cache.tensors("models", CONFIG, never)
    assert torch.equal(cache.tensors("models", CONFIG, ones)["weight"], torch.ones(3))


def test_threads_that_ask_at_once_make_it_once():
    calls = []

    def slow():
        calls.append(1)
        time.sleep(0.2)
        return ones()

    threads = [
        threading.Thread(target=cache.tensors, args=("models", CONFIG, slow)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


@pytest.mark.parametrize("moment", ["making", "writing"])
def test_killed_leaves_nothing_that_counts(moment, fresh_cache):
    program = f"""
import os, time, torch
from lowrank.tasks import cache

def hang(*_):
    print("now", flush=True)
    time.sleep(60)

make = hang
if {moment!r} == "writing":
    os.replace, make = hang, lambda: {{"x": torch.ones(9)}}
cache.tensors("models", {CONFIG!r}, make)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=dict(os.environ), text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(fresh_cache.rglob("*.safetensors"))
    assert torch.equal(cache.tensors("models", CONFIG, ones)["weight"], torch.ones(3))
    assert not list(fresh_cache.rglob("*.tmp"))


def test_a_damaged_file_is_named(fresh_cache):
    cache.tensors("models", CONFIG, ones)
    (file,) = fresh_cache.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=f"{file.name} is damaged .*delete it"):
        cache.tensors("models", CONFIG, ones)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOWRANK_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="cannot be written .*set LOWRANK_CACHE"):
        cache.tensors("models", CONFIG, never)
