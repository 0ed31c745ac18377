"""The kernel cache: one decomposition and one calibration for all processes, to the bit."""

import json
import os
from pathlib import Path

import pytest
import torch
from programs import run
from torch import nn

import lowrank
from lowrank.calibration import CalibratedNorms
from lowrank.calibration import calibrated_norms as norms
from lowrank.compression.compress import compress
from lowrank.compression.kernel_cache import code_of
from lowrank.decomposers import GPTQ, RobustPCA, TruncatedSVD
from lowrank.files import kernel_folder
from lowrank.numerics import memo, spectral
from lowrank.numerics.memo import Memo, memoised, unchanging


@pytest.fixture(autouse=True)
def another_process(monkeypatch):
    """A memo of this test's own, which it may empty, and everything is worth keeping."""
    own = Memo()
    for module in (memo, norms):
        monkeypatch.setattr(module, "MEMO", own)
    monkeypatch.setattr(kernel_folder, "RATE", 1e18)
    monkeypatch.setattr(kernel_folder.KernelFolder.__init__, "__defaults__", (0.0,))
    return own


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5)).eval()


def files(folder):
    return sorted(folder.glob("*.safetensors"))


def weights(result):
    return list(result.model.state_dict().values())


def test_a_decomposition_is_taken_from_the_folder_to_the_bit(
    tmp_path, another_process, monkeypatch
):
    expected = weights(compress(model(), TruncatedSVD(rank=3)))
    another_process.clear()
    with lowrank.kernel_cache(tmp_path):
        weights(compress(model(), TruncatedSVD(rank=2)))
    assert files(tmp_path)
    another_process.clear()

    def refuse(*_, **__):
        raise AssertionError("it was computed again")

    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    monkeypatch.setattr(torch.linalg, "svd", refuse)
    with lowrank.kernel_cache(tmp_path):
        found = weights(compress(model(), TruncatedSVD(rank=3)))
    assert all(torch.equal(one, own) for one, own in zip(found, expected, strict=True))
    with pytest.raises(AssertionError, match="computed again"):
        another_process.clear()
        compress(model(), TruncatedSVD(rank=3))


def test_another_number_of_threads_has_its_own(tmp_path, another_process):
    before = torch.get_num_threads()
    try:
        for threads, count in ((1, 1), (2, 2), (1, 2)):
            another_process.clear()
            torch.set_num_threads(threads)
            with lowrank.kernel_cache(tmp_path):
                spectral.analysis(torch.ones(4, 3), route="float64")
            assert len(files(tmp_path)) == count
    finally:
        torch.set_num_threads(before)


class CountingRuns(nn.Sequential):
    runs = 0

    def forward(self, x):
        CountingRuns.runs += 1
        return super().forward(x)


@pytest.mark.parametrize("identity, runs", [("mine", 1), (None, 2)])
def test_a_calibration_is_shared_where_the_model_is_known(
    tmp_path, another_process, identity, runs
):
    CountingRuns.runs = 0
    data, results = [torch.randn(8, 20, generator=torch.manual_seed(1))], []
    for _ in range(2):
        another_process.clear()
        known = unchanging(CountingRuns(*model()), identity)
        with lowrank.kernel_cache(tmp_path):
            results.append(weights(compress(known, GPTQ(bits=3), norm="full", data=data)))
    assert CountingRuns.runs == runs
    assert all(torch.equal(one, own) for one, own in zip(*results, strict=True))
    with lowrank.kernel_cache(tmp_path):
        another_process.clear()
        known = unchanging(CountingRuns(*model()), "another")
        compress(known, GPTQ(bits=3), norm="full", data=data)
    assert CountingRuns.runs == runs + 1


def test_what_never_occurs_again_is_not_written(tmp_path):
    sequential = CalibratedNorms("full", mode="sequential")
    data = [torch.randn(8, 20, generator=torch.manual_seed(1))]
    with lowrank.kernel_cache(tmp_path):
        compress(model(), GPTQ(bits=3), norm=sequential, data=data)
        compress(model(), RobustPCA())
    seen = {
        name for path in files(tmp_path) for name in (b"svd", b"analysis") if name in head(path)
    }
    assert not seen


def head(path: Path) -> bytes:
    return path.read_bytes()[:4000]


def test_kernels_of_others_are_not_written(tmp_path):
    @memoised
    def own(matrix):
        return 2 * matrix

    with lowrank.kernel_cache(tmp_path):
        own(torch.ones(3))
    assert not files(tmp_path)


def test_inside_another_the_inner_one_counts_and_none_is_the_outer(tmp_path, another_process):
    with lowrank.kernel_cache(tmp_path / "outer"):
        outer = another_process.shelf
        with lowrank.kernel_cache(tmp_path / "inner"):
            assert another_process.shelf.folder == tmp_path / "inner"
        with lowrank.kernel_cache(None):
            assert another_process.shelf is outer
    assert another_process.shelf is None


def test_a_class_without_a_file_has_no_code():
    assert code_of([nn.Linear, CountingRuns]) == code_of([CountingRuns, nn.Linear, nn.Linear])
    assert code_of([nn.Linear]) != code_of([CountingRuns])
    assert code_of([type("Made", (), {"__module__": "nowhere"})]) is None


@pytest.mark.parametrize(
    "folder, gigabytes, text",
    [
        ("/dev/null/cache", 1, "the kernel cache /dev/null/cache cannot be written"),
        (3, 1, "folder=3 must be a path"),
        ("cache", 0, "gigabytes=0 must be above 0"),
        ("cache", "1", "gigabytes='1' must be a number"),
    ],
)
def test_a_cache_that_cannot_be(tmp_path, monkeypatch, folder, gigabytes, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=text), lowrank.kernel_cache(folder, gigabytes):
        pass


POINT = """
import sys
from lowrank.files import kernel_folder
kernel_folder.RATE = 1e18
kernel_folder.KernelFolder.__init__.__defaults__ = (0.0,)
from experiments import sweep
sweep.main()
"""


def test_points_of_a_sweep_share_it_and_have_the_same_records(cache, tmp_path):
    found = []
    for name in ("first", "second"):
        folder, kernels = tmp_path / name, tmp_path / "kernels"
        point = ["threads=1", "measure=quick", "method=gptq", "method.bits=3", f"results={folder}"]
        environment = os.environ | {"LOWRANK_CACHE": str(cache)}
        done = run("-c", POINT, *point, f"kernel_cache.folder={kernels}", env=environment)
        assert done.returncode == 0, done.stderr
        (path,) = folder.glob("*.json")
        found.append((path.name, json.loads(path.read_text()), files(kernels)))
    (one, first, before), (other, second, after) = found
    assert one == other and before == after
    assert any(b"calibration" in head(path) for path in before)
    for part in ("dense", "compressed", "layers", "ratios", "validation"):
        assert first[part] == second[part]
