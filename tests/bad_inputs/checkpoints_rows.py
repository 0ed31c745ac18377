"""Folders of models that are to be compressed on disk, and what they are compressed into."""

import json
import shutil

import torch
from made_checkpoints import llama, tied_gpt2
from row import Row
from safetensors.torch import load_file, save_file

import lowrank
from lowrank import (
    CalibratedNorms,
    Calibration,
    GlobalRank,
    LoRA,
    Quantization,
    TruncatedSVD,
)
from lowrank.files.tensor_folders import INDEX
from lowrank.reading.shards import INDEX as SHARDS

FOUR = Quantization(bits=4)
SECOND = "model-00002-of-"


def of(edit=lambda dense: None, make=llama, method=FOUR, **options):
    """Compress a folder after an edit; nothing may be written."""

    def act(folder):
        edit(make(folder / "dense"))
        try:
            return lowrank.compress_checkpoint(
                folder / "dense", folder / "small", method, **options
            )
        finally:
            assert not (folder / "small").exists()

    return act


def shard(dense):
    return next(dense.glob(f"{SECOND}*"))


def lose(dense):
    shard(dense).unlink()


def cut(dense):
    shard(dense).write_bytes(shard(dense).read_bytes()[:-100])


def index(change):
    def edit(dense):
        path = dense / SHARDS
        path.write_text(change(path.read_text()))

    return edit


def config(**entries):
    def edit(dense):
        path = dense / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return edit


def elsewhere(text):
    found = json.loads(text)
    found["weight_map"]["model.norm.weight"] = found["weight_map"]["model.embed_tokens.weight"]
    return json.dumps(found)


def outside(text):
    return text.replace(SECOND, f"../{SECOND}")


def tensors(change):
    """Edit the tensors of a folder of one file."""

    def edit(dense):
        path = dense / "model.safetensors"
        found = load_file(path)
        change(found)
        save_file(found, path, metadata={"format": "pt"})

    return edit


def untied(found):
    found["lm_head.weight"] = found["transformer.wte.weight"] + 1


def into(begin):
    """Compress into a folder in which something is; it stays as it is."""

    def act(folder):
        dense, small = llama(folder / "dense"), folder / "small"
        begin(dense, small)
        before = {path.name: path.stat().st_mtime_ns for path in small.iterdir()}
        try:
            return lowrank.compress_checkpoint(dense, small, FOUR)
        finally:
            assert before == {path.name: path.stat().st_mtime_ns for path in small.iterdir()}

    return act


def changed(dense, small):
    lowrank.compress_checkpoint(dense, small, FOUR)
    path = dense / "generation_config.json"
    path.write_text(path.read_text() + "\n")


def loaded(edit):
    """Load a folder after an edit."""

    def act(folder):
        small = folder / "small"
        lowrank.compress_checkpoint(llama(folder / "dense"), small, FOUR)
        edit(small)
        return lowrank.load(small)

    return act


def flip(small, name):
    data = bytearray((small / name).read_bytes())
    data[-9] ^= 1
    (small / name).write_bytes(data)


ROWS = [
    Row("a shard is missing", of(lose), r"lists 4 files, of which \['model-00002-of.*not there"),
    Row("a shard is truncated", of(cut), "model-00002-of.*is no whole safetensors file"),
    Row(
        "an index has a tensor twice",
        of(
            index(
                lambda text: text.replace(
                    '"weight_map": {', '"weight_map": {"lm_head.weight": "a",'
                )
            )
        ),
        "index.json: .*it has 'lm_head.weight' twice",
    ),
    Row(
        "an index has a tensor in another shard",
        of(index(elsewhere)),
        r"says that \['model.norm.weight'\] are in model-00001.*: they are not",
    ),
    Row("an index leads elsewhere", of(index(outside)), "no names of files beside it"),
    Row(
        "an index lacks a tensor",
        of(index(lambda text: text.replace("model.norm.weight", "model.norm.wait"))),
        r"says that \['model.norm.wait'\]",
    ),
    Row("an index is no JSON", of(index(lambda text: text[:-9])), "index.json: the index is not"),
    Row("no weights", of(lambda d: (d / SHARDS).unlink()), "neither model.safetensors nor"),
    Row("no config", of(lambda d: (d / "config.json").unlink()), "has no config.json"),
    Row("no folder", lambda f: lowrank.compress_checkpoint(f / "no", f / "small", FOUR), "no fold"),
    Row("code of others", of(config(auto_map={"AutoModel": "a.B"})), "has 'auto_map', by which"),
    Row("compressed already", of(config(quantization_config={})), "is compressed already"),
    Row("a class that is not there", of(config(architectures=["Lama"])), "holds a 'Lama', which"),
    Row("no class", of(config(architectures=None)), r"names the classes \[\]: it must name one"),
    Row("another size", of(config(intermediate_size=64)), r"is \(128, 64\) .* and \(64, 64\)"),
    Row("more layers", of(config(num_hidden_layers=3)), r"they lack \['model.layers.2"),
    Row("too many layers", of(config(num_hidden_layers=10**6)), "more (parameters|modules) than"),
    Row("another head", of(tensors(untied), tied_gpt2), "are one tensor in a GPT2.* and differ"),
    Row(
        "a method of all weights", of(method=GlobalRank(compression_ratio=2)), "numbers of all wei"
    ),
    Row("a rank that fits none", of(method=TruncatedSVD(rank=999)), "rank=999 does not fit"),
    Row("a pattern of nothing", of(where="*.nothing"), "matches no layer"),
    Row("a norm without data", of(norm="diagonal"), "needs calibration data: give `data`"),
    Row("data of no use", of(norm="identity", data=[1]), "data would have no effect"),
    Row("another dtype", of(dtype="int8"), "dtype='int8' must be"),
    Row("no workers", of(workers=0), "workers=0 must be"),
    Row("no method", of(method=4), "method=4 must be a decomposer"),
    Row(
        "into another model",
        into(lambda dense, small: tied_gpt2(small)),
        "small is there already: remove it",
    ),
    Row(
        "into another compression",
        into(lambda d, s: lowrank.compress_checkpoint(d, s, Quantization(bits=3))),
        "holds another compression, .* differs in method .*bits=3.* there, .*bits=4.* here",
    ),
    Row("into that of what has changed", into(changed), "it differs in source"),
    Row("into itself", into(lambda d, s: s.symlink_to(d)), "is the source itself"),
    Row("load what is damaged", loaded(lambda s: flip(s, "lowrank-00003.safetensors")), "damaged"),
    Row("load with a damaged index", loaded(lambda s: flip(s, INDEX)), "index"),
    Row(
        "load without a part",
        loaded(lambda s: (s / "lowrank-00003.safetensors").unlink()),
        "lowrank-00003.safetensors is missing, which",
    ),
    Row(
        "load with a part in the place of another",
        loaded(
            lambda s: shutil.copy(s / "lowrank-00003.safetensors", s / "lowrank-00004.safetensors")
        ),
        "lowrank-00004.safetensors is not the file that",
    ),
    Row("load without the index", loaded(lambda s: (s / INDEX).unlink()), "or not to its end"),
]


SEQUENTIAL = CalibratedNorms("full", mode="sequential")
BATCHES = [torch.arange(9)[None]]
ROWS += [
    Row("norms of all at once", of(norm="fisher", data=BATCHES), "needs the whole model at once"),
    Row("norms without data", of(norm=SEQUENTIAL), "needs calibration data: give `data`"),
    Row(
        "statistics made before",
        of(norm=SEQUENTIAL, data=Calibration({}, {"moment": "full", "outputs": False})),
        "statistics made before are for mode='one-shot'",
    ),
]


def adapted(folder):
    return lowrank.compress_checkpoint(
        llama(folder / "dense"), folder / "small", LoRA(rank=2, alpha=2)
    )


ROWS += [Row("adapters", adapted, "makes adapters, which are trained next")]
