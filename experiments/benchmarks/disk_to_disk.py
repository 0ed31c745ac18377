"""Benchmark: the memory and the time of compressing a checkpoint from disk to disk.

    python -m experiments.benchmarks.disk_to_disk                     # small, in a minute
    python -m experiments.benchmarks.disk_to_disk --size 3b --svd '*s.0.*' --gptq '*s.0.*'

A Llama of random bfloat16 numbers is written shard by shard, and its blocks are compressed by
`lowrank.compress_checkpoint`: by round to nearest, by truncated SVD and, calibrated in sequence on
random tokens, by GPTQ. Each stage is a process of its own, whose most resident memory the kernel
tells (VmHWM); torch and transformers alone, without any model, are the first line. CPU time is that
of all threads of the process. The folders are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from experiments.benchmarks.process_memory import PEAK, status

# The sizes of LlamaConfig; the second ones are those of OpenLLaMA 3B.
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 4000,
    },
    "3b": {
        "hidden_size": 3200,
        "intermediate_size": 8640,
        "num_hidden_layers": 26,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    },
}
BLOCKS = "*.layers.*"
SHARD = 10**9
# Inputs of 256 tokens that GPTQ is calibrated on.
CALIBRATION = 8


def make(folder: Path, size: str, blocks: int | None = None) -> None:
    """Write the checkpoint, one shard in memory at a time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = SIZES[size] | ({} if blocks is None else {"num_hidden_layers": blocks})
    config = LlamaConfig(**sizes, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    homes: dict[str, str] = {}

    def end() -> None:
        name = f"model-{len(set(homes.values())) + 1:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        homes.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, blank in model.state_dict().items():
        if shard and sum(t.nbytes for t in shard.values()) + 2 * blank.numel() > SHARD:
            end()
        if blank.ndim == 1:
            shard[name] = torch.ones(blank.shape, dtype=torch.bfloat16)
        else:
            numbers = torch.empty(blank.shape, dtype=torch.bfloat16)
            shard[name] = numbers.normal_(0, 0.02, generator=generator)
    end()
    index = {"metadata": {}, "weight_map": homes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def nothing(folder: Path) -> None:
    """Import what the other stages do."""
    import transformers  # noqa: F401

    import lowrank

    _ = folder, lowrank.compress_checkpoint, transformers.LlamaForCausalLM


def rtn(folder: Path, where: str) -> None:
    """Round to nearest, 4 bits in groups of 64."""
    import lowrank

    method = lowrank.Quantization(bits=4, group_size=64)
    lowrank.compress_checkpoint(folder / "dense", folder / "rtn", method, where=where)


def svd(folder: Path, where: str) -> None:
    """Truncated SVD, to half of the bytes."""
    import lowrank

    method = lowrank.TruncatedSVD(compression_ratio=2)
    lowrank.compress_checkpoint(folder / "dense", folder / "svd", method, where=where)


def gptq(folder: Path, where: str) -> None:
    """GPTQ, 4 bits in groups of 64, each block behind the compressed ones before it."""
    import lowrank

    tokens = torch.randint(0, 4000, (CALIBRATION, 256), generator=torch.Generator().manual_seed(1))
    given = (lowrank.CalibratedNorms("full", mode="sequential"), list(tokens.split(1)))
    method = lowrank.GPTQ(bits=4, group_size=64)
    lowrank.compress_checkpoint(folder / "dense", folder / "gptq", method, where, *given)


STAGES: dict[str, Callable[..., None]] = {
    "imports alone": nothing,
    "make": lambda folder, size, *blocks: make(folder / "dense", size, *map(int, blocks)),
    "round to nearest": rtn,
    "truncated SVD": svd,
    "sequential GPTQ": gptq,
}


def run(stage: str, folder: Path, *words: str) -> None:
    """Run a stage in a process of its own, and print a line."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "experiments.benchmarks.disk_to_disk"]
    ended = subprocess.run(
        [*command, "--stage", stage, "--folder", str(folder), *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    peak, cpu = ended.stdout.split()
    print(
        f"  {stage:18s} {int(peak) / 1e9:8.2f} GB {seconds:9.1f} s {float(cpu):9.1f} s", flush=True
    )


def nbytes(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--blocks", type=int, help="of the model; by default those of its size")
    parser.add_argument("--rtn", default=BLOCKS, help="the weights to round; '' for none")
    parser.add_argument("--svd", default=BLOCKS, help="the weights to factor; '' for none")
    parser.add_argument("--gptq", default=BLOCKS, help="the weights of GPTQ; '' for none")
    parser.add_argument("--folder", type=Path, help="where; by default a temporary one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.stage is not None:
        STAGES[options.stage](options.folder, *options.words)
        print(status(PEAK), time.process_time())
        return
    if options.words:
        parser.error(f"unknown arguments: {' '.join(options.words)}")
    with tempfile.TemporaryDirectory(prefix="disk-to-disk-", dir=options.folder) as name:
        folder = Path(name)
        threads = ["--threads", str(options.threads)]
        print("  stage               memory at most      time  CPU time")
        run("imports alone", folder, *threads)
        blocks = [] if options.blocks is None else [str(options.blocks)]
        run("make", folder, *threads, options.size, *blocks)
        free = shutil.disk_usage(folder).free
        print(f"  {nbytes(folder / 'dense') / 1e9:.2f} GB on disk, {free / 1e9:.0f} GB free")
        wanted = {"round to nearest": "rtn", "truncated SVD": "svd", "sequential GPTQ": "gptq"}
        for stage, method in wanted.items():
            where = getattr(options, method)
            if where:
                run(stage, folder, *threads, where)
                shutil.rmtree(folder / method)


if __name__ == "__main__":
    main()
