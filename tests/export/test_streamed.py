"""Compression of a checkpoint from disk to disk: the same as in memory, and after a kill."""

import errno
import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import programs
import pytest
import torch
from made_checkpoints import llama, tied_gpt2
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import lowrank
from lowrank import HQQ, HalfPrecision, MagnitudePruning, Quantization, Select, TruncatedSVD
from lowrank.export.checkpoint import opened_model
from lowrank.export.file_contents import file_contents
from lowrank.export.streamed import compress
from lowrank.export.streamed import parts as parts_module
from lowrank.export.streamed.work import CheckpointWork
from lowrank.files import tensor_files
from lowrank.files.tensor_folders import INDEX

ROOT = Path(__file__).parents[2]
STORIES = Path(os.environ.get("LOWRANK_HUB", ""), "models", "karpathy/stories260K")
BLOCKS = "*.layers.*"
MIXED = {"*proj": TruncatedSVD(rank=60), "*head": Quantization(bits=3), "*": MagnitudePruning(0.5)}
CASES = {
    "rounded": (llama, Quantization(bits=4), {}),
    "low rank": (llama, TruncatedSVD(rank=8), {"where": BLOCKS}),
    "low rank, 16 bits": (llama, TruncatedSVD(rank=8), {"where": BLOCKS, "values": "float16"}),
    "mixed": (llama, MIXED, {}),
    "pruned, tied": (tied_gpt2, MagnitudePruning(0.5), {}),
    "half, tied": (tied_gpt2, HalfPrecision("bfloat16"), {"where": Select(last=False)}),
    "no table": (tied_gpt2, HQQ(bits=4), {"where": Select(embeddings=False)}),
}
# Header fields that must be equal; the index has the same tensors in other files.
SAME = ("layers", "same", "views", "frozen", "extra")
INPUTS = torch.arange(9)[None]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The folder of each model, made once."""
    made = {}

    def of(make):
        if make not in made:
            made[make] = make(tmp_path_factory.mktemp(make.__name__) / "dense")
        return made[make]

    return of


def in_memory(source, method, options, file):
    """What `compress` and `save` make of the same folder."""
    given = dict(options)
    dtype = getattr(torch, given.pop("dtype")) if "dtype" in given else "auto"
    dense = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    result = lowrank.compress(dense, method, **given)
    lowrank.save(result.model, file)
    return result


def check_same(folder, file):
    """Folder and file hold the same tensors, bit for bit, and the same model."""
    with opened_model(folder) as ours, opened_model(file) as theirs:
        found, wanted = ours.read()[0], theirs.read()[0]
        assert found.keys() == wanted.keys() and len(found) > 9
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
        for name in SAME:
            assert ours.header[name] == theirs.header[name], name
        assert ours.stored_bytes() == theirs.stored_bytes()
    ours, theirs = lowrank.load(folder), lowrank.load(file)
    assert torch.equal(ours(INPUTS).logits, theirs(INPUTS).logits)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_as_in_memory(case, sources, tmp_path):
    make, method, options = CASES[case]
    source = sources(make)
    result = lowrank.compress_checkpoint(source, tmp_path / "small", method, **options)
    wanted = in_memory(source, method, options, tmp_path / "m")
    check_same(tmp_path / "small", tmp_path / "m")
    assert result.layers == wanted.layers and result.left == wanted.left
    assert result.skipped == wanted.skipped and result.model_params == wanted.model_params
    assert result.summary() == wanted.summary()
    assert result.nbytes == lowrank.measure.size.nbytes(wanted.model)


@pytest.mark.skipif(not STORIES.is_dir(), reason="LOWRANK_HUB is not set")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_trained_model_is_the_same_as_in_memory(dtype, tmp_path):
    options = {"dtype": dtype, "where": BLOCKS}
    method = Quantization(bits=3, group_size=32)
    result = lowrank.compress_checkpoint(STORIES, tmp_path / "small", method, **options)
    in_memory(STORIES, method, options, tmp_path / "m")
    check_same(tmp_path / "small", tmp_path / "m")
    tokenizer = (tmp_path / "small" / "tokenizer.json").read_bytes()
    assert tokenizer == (STORIES / "tokenizer.json").read_bytes() and result.coverage > 0.5


def test_what_is_copied_may_be_in_several_files(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(parts_module, "TOGETHER", 20000)
    source = sources(llama)
    lowrank.compress_checkpoint(source, tmp_path / "small", Quantization(bits=4), where=BLOCKS)
    in_memory(source, Quantization(bits=4), {"where": BLOCKS}, tmp_path / "m")
    check_same(tmp_path / "small", tmp_path / "m")
    index = json.loads((tmp_path / "small" / INDEX).read_text())
    homes = index["weight_map"]
    assert homes["lm_head.weight"] != homes["model.norm.weight"]


def test_only_one_weight_is_there_at_a_time(sources, tmp_path, monkeypatch):
    """When the next one is made, no module has numbers any more."""
    make, seen = CheckpointWork.make, []

    def watched(work, part):
        make(work, part)
        seen.append([n for n, p in work.source.model.named_parameters() if not p.is_meta])
        assert not work.walk.forms and not work.walk.layers

    monkeypatch.setattr(CheckpointWork, "make", watched)
    lowrank.compress_checkpoint(sources(llama), tmp_path / "small", TruncatedSVD(rank=8))
    assert len(seen) > 9 and not any(seen)


def test_a_weight_without_a_level_stays_as_it_is(sources, tmp_path):
    """A rank above the sides of some is no error, unless all must take it."""
    source, where = sources(llama), Select(exclude="*embed*")
    method = TruncatedSVD(rank=40)
    result = lowrank.compress_checkpoint(source, tmp_path / "small", method, where=where)
    wanted = in_memory(source, method, {"where": where}, tmp_path / "m")
    assert result.left == wanted.left and result.left
    check_same(tmp_path / "small", tmp_path / "m")
    with pytest.raises(ValueError, match="layer 'model.layers.0.self_attn.k_proj': rank=40"):
        lowrank.compress_checkpoint(source, tmp_path / "other", method, where, strict=True)
    assert not (tmp_path / "other").exists()


KILLED = """
import os, signal, sys
import lowrank
from lowrank.files.digest import Digest

add, count = Digest.add, 0

def counting(digest, name, tensor):
    global count
    count += ".codes" in name
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    add(digest, name, tensor)

Digest.add = counting
lowrank.compress_checkpoint(sys.argv[1], sys.argv[2], lowrank.Quantization(bits=4))
"""


def test_it_goes_on_after_a_kill_in_the_midst_of_a_file(sources, tmp_path, monkeypatch):
    source, target = sources(llama), tmp_path / "small"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = programs.run("-c", KILLED, str(source), str(target), env=environment)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = content(target)
    done = [name for name in left if name.endswith(".safetensors")]
    assert len(done) == 4 and any(name.endswith(".tmp") for name in left) and INDEX not in left
    with pytest.raises(ValueError, match="or not to its end"):
        lowrank.load(target)
    make, made = CheckpointWork.make, []
    monkeypatch.setattr(
        CheckpointWork, "make", lambda work, part: (made.append(part), make(work, part))
    )
    result = lowrank.compress_checkpoint(source, target, Quantization(bits=4))
    whole = lowrank.compress_checkpoint(source, tmp_path / "whole", Quantization(bits=4))
    assert content(target) == content(tmp_path / "whole")
    assert {name: left[name] for name in done} == {name: content(target)[name] for name in done}
    assert len(made) == 2 * len(result.layers) + 2 - len(done)
    assert result.layers == whole.layers and result.nbytes == whole.nbytes


def test_what_is_finished_is_not_made_again(sources, tmp_path, monkeypatch):
    source, target = sources(llama), tmp_path / "small"
    first = lowrank.compress_checkpoint(source, target, Quantization(bits=4))
    before = content(target)
    monkeypatch.setattr(CheckpointWork, "make", None)
    again = lowrank.compress_checkpoint(source, target, Quantization(bits=4))
    assert again == first and content(target) == before


def test_workers_make_the_same(sources, tmp_path):
    source, method = sources(llama), TruncatedSVD(rank=8)
    lowrank.compress_checkpoint(source, tmp_path / "one", method, where=BLOCKS)
    lowrank.compress_checkpoint(source, tmp_path / "two", method, where=BLOCKS, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_worker_that_is_ended_is_an_error_that_says_what_helps(sources, tmp_path, monkeypatch):
    def ended(number):
        raise BrokenProcessPool

    # Threads, since processes need seconds to start.
    threads = lambda workers, context, **_: ThreadPoolExecutor(workers)  # noqa: E731
    monkeypatch.setattr(compress, "ProcessPoolExecutor", threads)
    monkeypatch.setattr(compress, "_make", ended)
    source, target = sources(llama), tmp_path / "small"
    with pytest.raises(RuntimeError, match="for want of memory, where fewer workers help"):
        lowrank.compress_checkpoint(source, target, Quantization(bits=4), BLOCKS, workers=2)
    assert not (target / INDEX).exists()


def test_a_full_disk_is_one_error_and_no_half_file(sources, tmp_path, monkeypatch):
    source, target = sources(llama), tmp_path / "small"
    bytes_of, count = tensor_files.bytes_of, iter(range(99))

    def full(tensor):
        if next(count) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return bytes_of(tensor)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "bytes_of", full)
        with pytest.raises(OSError, match="No space left .* goes on .*lowrank-0000") as caught:
            lowrank.compress_checkpoint(source, target, Quantization(bits=4))
    assert caught.value.errno == errno.ENOSPC
    assert INDEX not in content(target) and not [n for n in content(target) if n.endswith(".tmp")]
    lowrank.compress_checkpoint(source, target, Quantization(bits=4))
    lowrank.compress_checkpoint(source, tmp_path / "whole", Quantization(bits=4))
    assert content(target) == content(tmp_path / "whole")


def test_a_weight_that_is_not_finite_is_named(sources, tmp_path):
    source = tmp_path / "dense"
    shutil.copytree(sources(tied_gpt2), source)
    (path,) = source.glob("*.safetensors")
    tensors = load_file(path)
    tensors["transformer.h.1.attn.c_attn.weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="layer 'transformer.h.1.attn.c_attn'.*NaN"):
        lowrank.compress_checkpoint(source, tmp_path / "small", Quantization(bits=4))


def test_a_folder_is_shown_and_exported_like_a_file(sources, tmp_path):
    source = sources(llama)
    lowrank.compress_checkpoint(source, tmp_path / "small", Quantization(bits=4))
    result = in_memory(source, Quantization(bits=4), {}, tmp_path / "m")
    ours, theirs = file_contents(tmp_path / "small"), file_contents(tmp_path / "m")
    assert ours.layers == theirs.layers and ours.nbytes == theirs.nbytes
    loaded = lowrank.load(tmp_path / "small")
    plans = [lowrank.plan_export(m, "hf", tokenizer=None) for m in (loaded, result.model)]
    assert plans[0].layers == plans[1].layers
