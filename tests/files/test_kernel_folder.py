"""Results of kernels on disk: as computed, whole or not at all, bounded."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest
import torch

from lowrank.calibration.statistics import Statistics
from lowrank.files import kernel_folder
from lowrank.files.kernel_folder import KernelFolder
from lowrank.files.tensor_trees import from_tree, to_tree
from lowrank.numerics.spectral import Spectral

MATRIX = torch.randn(6, 4, generator=torch.manual_seed(0))


def store(folder, limit=10**9, stamp="here"):
    """One that keeps whatever it is given."""
    return KernelFolder(folder, limit, stamp, least_seconds=0.0)


@pytest.fixture(autouse=True)
def any_speed(monkeypatch):
    monkeypatch.setattr(kernel_folder, "RATE", 1e18)


class Computing:
    """A kernel that counts its calls."""

    def __init__(self, result=None):
        self.result, self.calls = MATRIX if result is None else result, 0

    def __call__(self):
        self.calls += 1
        return self.result


RESULTS = {
    "tensor": MATRIX,
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "svd": tuple(torch.linalg.svd(MATRIX, full_matrices=False)),
    "spectral": Spectral(MATRIX, MATRIX[0], MATRIX.T, torch.tensor([0.5, torch.inf])),
    "statistics": {"q": Statistics(MATRIX, None, 3, ("padding",)), "k": Statistics(None, None, 0)},
    "list": [torch.arange(3), True, None, 1.5, "text", torch.tensor([True])],
    "half": MATRIX.bfloat16(),
    "cut": MATRIX[1:, ::2],
}


def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
        assert torch.equal(one, other)
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for part, own in zip(one, other, strict=True):
            same(part, own)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            same(one[name], other[name])
    else:
        assert one == other


@pytest.mark.parametrize("name", RESULTS)
def test_a_kept_result_is_the_one_that_was_computed(tmp_path, name):
    compute = Computing(RESULTS[name])
    same(store(tmp_path).get("key", compute), RESULTS[name])
    same(store(tmp_path).get("key", compute), RESULTS[name])
    assert compute.calls == 1


def test_the_layout_in_memory_is_kept():
    u, *_ = torch.linalg.svd(MATRIX, full_matrices=False)
    for tensor in (u, MATRIX.T, torch.randn(2, 3, 4).permute(2, 0, 1)):
        tensors: dict[str, torch.Tensor] = {}
        tree = to_tree(tensor, tensors)
        kept = {name: own.contiguous() for name, own in tensors.items()}
        assert from_tree(json.loads(json.dumps(tree)), kept).stride() == tensor.stride()


def test_what_is_shared_is_kept_once_and_comes_back_shared(tmp_path):
    shared = {name: Statistics(MATRIX, None, 3) for name in "qkv"}
    tensors: dict[str, torch.Tensor] = {}
    to_tree(shared, tensors)
    assert len(tensors) == 1
    store(tmp_path).get("key", lambda: shared)
    back = store(tmp_path).get("key", Computing())
    assert back["q"].columns is back["k"].columns is back["v"].columns


@pytest.mark.parametrize("key, stamp", [("other", "here"), ("key", "there")])
def test_another_key_or_machine_has_its_own(tmp_path, key, stamp):
    store(tmp_path).get("key", Computing())
    compute = Computing(MATRIX + 1)
    same(store(tmp_path, stamp=stamp).get(key, compute), MATRIX + 1)
    assert compute.calls == 1 and len(list(tmp_path.iterdir())) == 2


def emptied(path):
    path.write_bytes(b"")


def shortened(path):
    path.write_bytes(path.read_bytes()[:-8])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def pickled(path):
    torch.save(MATRIX, path)


def of_another(path):
    """A whole file under a wrong name."""
    other = store(path.parent)
    other.get("another key", Computing(MATRIX + 1))
    other._path("another key").replace(path)


def of_foreign_code(path):
    content = path.read_bytes().replace(b"lowrank.numerics.spectral", b"subprocess.numerics.pipes")
    path.write_bytes(content)


def made_a_folder(path):
    path.unlink()
    path.mkdir()


FAULTS = [emptied, shortened, flipped, pickled, of_another, of_foreign_code]


@pytest.mark.parametrize("spoil", FAULTS)
def test_what_is_damaged_is_computed_anew_and_replaced(tmp_path, spoil, caplog):
    expected = RESULTS["spectral"]
    store(tmp_path).get("key", lambda: expected)
    spoil(store(tmp_path)._path("key"))
    compute = Computing(expected)
    same(store(tmp_path).get("key", compute), expected)
    assert compute.calls == 1 and "computed anew" in caplog.text
    same(store(tmp_path).get("key", compute), expected)
    assert compute.calls == 1


def test_where_no_file_can_be_the_result_is_computed(tmp_path, caplog):
    store(tmp_path).get("key", Computing())
    made_a_folder(store(tmp_path)._path("key"))
    same(store(tmp_path).get("key", Computing()), MATRIX)


def test_a_full_disk_loses_no_result_and_leaves_nothing(tmp_path, monkeypatch, caplog):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    same(store(tmp_path).get("key", Computing()), MATRIX)
    assert not list(tmp_path.iterdir())
    assert "not kept in the kernel cache: " in caplog.text and "No space left" in caplog.text


def test_the_least_recently_used_is_removed_first(tmp_path):
    one = store(tmp_path)
    one.get("a", Computing())
    limit = 3 * one._path("a").stat().st_size
    bounded = store(tmp_path, limit)
    for age, key in enumerate("abc"):
        bounded.get(key, Computing())
        then = time.time() - 100 + age
        os.utime(bounded._path(key), (then, then))
    bounded.get("a", Computing())  # Used again.
    bounded.get("d", Computing())
    assert [key for key in "abcd" if bounded._path(key).exists()] == ["a", "c", "d"]


def test_what_is_above_the_limit_is_given_and_not_written(tmp_path):
    same(store(tmp_path, limit=10).get("key", Computing()), MATRIX)
    assert not list(tmp_path.iterdir())


def test_what_is_computed_faster_than_read_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_folder, "RATE", 1.0)
    store(tmp_path).get("key", Computing())
    KernelFolder(tmp_path, 10**9, "here").get("other", Computing())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("result", [object(), {1: MATRIX}, torch.nn.Linear(2, 2), float("nan")])
def test_what_no_file_holds_is_computed_each_time(tmp_path, result):
    compute = Computing(result)
    for _ in range(2):
        assert store(tmp_path).get("key", compute) is result
    assert compute.calls == 2 and not list(tmp_path.iterdir())


WRITER = """
import sys, torch
from pathlib import Path
from lowrank.files import kernel_folder
kernel_folder.RATE = 1e18
store = kernel_folder.KernelFolder(Path(sys.argv[1]), 40_000, "here", least_seconds=0.0)
for round in range(int(sys.argv[2])):
    for number in range(8):
        found = store.get(f"{number}", lambda: torch.full((40, 50), float(number)))
        assert found.shape == (40, 50) and bool((found == number).all())
"""


def test_many_writers_and_kills_leave_what_is_whole_or_nothing(tmp_path):
    """Beyond the limit, so that each removes what others read."""
    rounds = ("1000000", "1000000", "8", "8")
    started = [
        subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, count]) for count in rounds
    ]
    assert [process.wait(timeout=120) for process in started[2:]] == [0, 0]
    for process in started[:2]:
        assert process.poll() is None
        process.kill()
        process.wait()
    last = subprocess.run([sys.executable, "-c", WRITER, tmp_path, "2"], timeout=60)
    assert last.returncode == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40_000
