"""Calibrated compression from disk to disk, block by block: the same as in memory."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import programs
import pytest
import torch
from made_checkpoints import llama, tied_gpt2
from transformers import AutoModelForCausalLM

import lowrank
from lowrank import GPTQ, CalibratedNorms, TruncatedSVD
from lowrank.calibration.replay import Replay
from lowrank.export.checkpoint import opened_model
from lowrank.export.streamed.resident import Residents
from lowrank.export.streamed.sequence import OUTPUTS
from lowrank.export.streamed.work import CheckpointWork

ROOT = Path(__file__).parents[2]
NORM = CalibratedNorms("full", mode="sequential")
FOUR = GPTQ(bits=4, group_size=32)
CASES = {
    "all weights": (llama, FOUR, None),
    "low rank of blocks": (llama, TruncatedSVD(rank=40), "*.layers.*"),
    "a tied table": (tied_gpt2, FOUR, None),
    "blocks with biases": (tied_gpt2, TruncatedSVD(rank=20), "*.h.*"),
}


def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 99, (2, 12), generator=generator) for _ in range(3)]


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("mode", ["sequential", "one-shot"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_as_in_memory(case, mode, tmp_path):
    make, method, where = CASES[case]
    norm = replace(NORM, mode=mode)
    source, target = make(tmp_path / "dense"), tmp_path / "small"
    ours = lowrank.compress_checkpoint(source, target, method, where, norm, batches())
    dense = AutoModelForCausalLM.from_pretrained(source)
    theirs = lowrank.compress(dense, method, where, norm=norm, data=batches())
    lowrank.save(theirs.model, tmp_path / "m")
    with opened_model(target) as found, opened_model(tmp_path / "m") as wanted:
        tensors, others = found.read()[0], wanted.read()[0]
        assert tensors.keys() == others.keys() and len(tensors) > 9
        assert not [name for name in tensors if not torch.equal(tensors[name], others[name])]
        assert all(found.header[n] == wanted.header[n] for n in ("layers", "same", "frozen"))
    assert ours.layers == theirs.layers and ours.left == theirs.left
    assert not (target / OUTPUTS).exists()


@pytest.mark.parametrize("mode", ["sequential", "one-shot"])
def test_several_workers_write_the_same(mode, tmp_path):
    norm = replace(NORM, mode=mode)
    source = llama(tmp_path / "dense")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for workers in (1, 3):
            lowrank.compress_checkpoint(
                source, tmp_path / str(workers), FOUR, None, norm, batches(), workers=workers
            )
    finally:
        torch.set_num_threads(before)
    assert content(tmp_path / "3") == content(tmp_path / "1")


def test_weights_of_a_block_are_decomposed_at_the_same_time(tmp_path, monkeypatch):
    make, together = CheckpointWork.make, threading.Barrier(2)

    def meeting(work, part, *others):
        if part.label.endswith(("gate_proj", "up_proj")):
            together.wait(timeout=30)
        return make(work, part, *others)

    monkeypatch.setattr(CheckpointWork, "make", meeting)
    source, target = llama(tmp_path / "dense"), tmp_path / "small"
    where, given = "*.mlp.[gu]*", (NORM, batches())
    result = lowrank.compress_checkpoint(source, target, FOUR, where, *given, workers=2)
    assert len(result.layers) == 4


def test_only_one_block_is_there_at_a_time(tmp_path, monkeypatch):
    enter, seen = Residents._enter, []

    def watched(residents, name, block, args):
        enter(residents, name, block, args)
        there = {
            home
            for home in residents.blocks
            if any(not p.is_meta for p in residents.model.get_submodule(home).parameters())
        }
        seen.append((name, there))

    monkeypatch.setattr(Residents, "_enter", watched)
    source = llama(tmp_path / "dense")
    lowrank.compress_checkpoint(source, tmp_path / "small", FOUR, "*.layers.*", NORM, batches())
    whole = [there for name, there in seen if there == {name}]
    assert len(whole) > 9 and max(len(there) for _, there in seen) == 1


KILLED = """
import os, signal, sys
import lowrank
from lowrank.export.streamed.work import CheckpointWork
from test_streamed_blocks import FOUR, NORM, batches

make = CheckpointWork.make

def killing(work, part, *others):
    if part.label == "model.layers.1.mlp.up_proj":
        os.kill(os.getpid(), signal.SIGKILL)
    return make(work, part, *others)

CheckpointWork.make = killing
lowrank.compress_checkpoint(sys.argv[1], sys.argv[2], FOUR, None, NORM, batches())
"""


def test_it_goes_on_at_the_block_where_it_was_killed(tmp_path, monkeypatch):
    source, target = llama(tmp_path / "dense"), tmp_path / "small"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "export")))
    environment = os.environ | {"PYTHONPATH": paths}
    ended = programs.run("-c", KILLED, str(source), str(target), env=environment)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    finish, units = Replay.finish, []
    monkeypatch.setattr(
        Replay, "finish", lambda replay, unit: (units.append(unit.name), finish(replay, unit))
    )
    lowrank.compress_checkpoint(source, target, FOUR, None, NORM, batches())
    assert units == ["model.layers.1"]
    lowrank.compress_checkpoint(source, tmp_path / "whole", FOUR, None, NORM, batches())
    assert units == ["model.layers.1", "model.embed_tokens", "model.layers.0", "model.layers.1"]
    assert content(target) == content(tmp_path / "whole")


def test_other_data_are_another_compression(tmp_path):
    source, target = llama(tmp_path / "dense"), tmp_path / "small"
    lowrank.compress_checkpoint(source, target, FOUR, "*q_proj", NORM, batches())
    with pytest.raises(ValueError, match="it differs in data"):
        lowrank.compress_checkpoint(source, target, FOUR, "*q_proj", NORM, batches()[1:])


def test_outputs_that_hold_more_than_tensors_are_not_read(tmp_path):
    from lowrank.calibration.piece import Refused
    from lowrank.calibration.replay import kept

    torch.save([Path("here")], tmp_path / "0-0.pt")
    assert next(kept(tmp_path / "0-0.pt", "block", is_own=True)) == Path("here")
    with pytest.raises(Refused, match="the outputs of block 'block' .* more than tensors"):
        next(kept(tmp_path / "0-0.pt", "block", is_own=False))
