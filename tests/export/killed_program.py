"""Exports that are killed at several of their steps, and then made again: prints what was found."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from architectures import SIZES, TOKENS, Architecture

import lowrank
from lowrank import LoRA, Quantization
from lowrank.export.formats import format_named
from lowrank.files import atomic

FOLDER = Path(sys.argv[1])
WIDTHS = SIZES | TOKENS | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
BASE = Architecture("LlamaForCausalLM", "LlamaConfig", WIDTHS, 16, set(), "lm_head").make()
SMALL = lowrank.compress(BASE, Quantization(4, group_size=32)).model
LORA = LoRA(2, 4, base=Quantization(4))
ADAPTED = lowrank.compress(BASE, LORA, where="*_proj").model
TEXT = {"tokenizer": None, "multiply_out": True}
PACKED = format_named("hf", tokenizer=None)
WRITERS = {
    "dense": lambda to: lowrank.export_model(SMALL, "dense", to),
    "hf": lambda to: lowrank.export_model(SMALL, "hf", to, shard_bytes=4000, **TEXT),
    "gguf": lambda to: lowrank.export_model(SMALL, "gguf", to, **TEXT),
    "peft": lambda to: lowrank.export_peft(ADAPTED, to, BASE),
    "peft, packed": lambda to: lowrank.export_peft(ADAPTED, to, BASE, base_format=PACKED),
}
# The touches of the temporary folder in a process; at the number of `last` it is killed.
steps = {"count": 0, "last": 0}


def watch(event, args):
    if ".lowrank-" in str(args[:1]):
        steps["count"] += 1
        if steps["count"] == steps["last"]:
            os.kill(os.getpid(), signal.SIGKILL)


def in_child(act):
    """The status of a process of its own that does this."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            atomic._clean_once.cache_clear()  # As in a process that was not forked.
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


torch.set_num_threads(1)
sys.addaudithook(watch)
found = {}
for number, (name, write) in enumerate(WRITERS.items()):
    folder = FOLDER / str(number)
    folder.mkdir()
    steps["count"] = 0
    write(folder / "whole")
    expected, count = files(folder / "whole"), steps["count"]
    killed, halves = [], []
    for last in sorted({1, count // 2, count}):
        steps.update(count=0, last=last)
        killed.append(in_child(lambda write=write, to=folder / "out": write(to)))
        if (folder / "out").exists():  # Killed after it was whole.
            halves.append(files(folder / "out") != expected)
            shutil.rmtree(folder / "out")
    steps["last"] = 0
    again = in_child(lambda write=write, to=folder / "out": write(to))
    found[name] = {
        "killed": killed,
        "halves": halves,
        "again": again,
        "same files": files(folder / "out") == expected,
        "left": sorted(path.name for path in folder.iterdir()),
    }
print(json.dumps(found))
