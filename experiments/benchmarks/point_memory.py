"""Benchmark: the most resident memory of each stage of a point of a causal language model.

    LOWRANK_HUB=FOLDER python -m experiments.benchmarks.point_memory
    python -m experiments.benchmarks.point_memory --model NAME --tokens 512 --inputs 8

The stages of a sweep over a language model, one after the other in one process, by GPTQ at 4 bits
on the blocks, calibrated in sequence: what a stage keeps is there in the next. The memory is what
the kernel tells (VmHWM, set back before each stage), with Python and its libraries; the text is
WikiText-2.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

import lowrank
from experiments.benchmarks.process_memory import PEAK, RESIDENT, forget_peak, status

T = TypeVar("T")
# Pruning by the inputs' norms runs the model in the same way, and is soon done.
METHODS: dict[str, Callable[[], Any]] = {
    "gptq": lambda: (lowrank.GPTQ(bits=4, group_size=32), "full"),
    "wanda": lambda: (lowrank.MagnitudePruning(0.5), "diagonal"),
}


def staged(name: str, work: Callable[[], T]) -> T:
    """What a stage gives; prints the memory before, at most and after it, and its time."""
    gc.collect()
    before = status(RESIDENT) or 0
    forget_peak()
    start = time.perf_counter()
    found = work()
    seconds, peak = time.perf_counter() - start, status(PEAK) or 0
    gc.collect()
    after = status(RESIDENT) or 0
    numbers = "".join(f"{size / 1e9:9.2f}" for size in (before, peak, after))
    print(f"  {name:34s}{numbers} {seconds:9.1f} s", flush=True)
    return found


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--tokens", type=int, default=512, help="in an input")
    parser.add_argument("--inputs", type=int, default=8, help="of calibration")
    parser.add_argument("--test", type=int, default=4, help="inputs of the test, some more or less")
    parser.add_argument("--batch", type=int, help="inputs at once; by default the task's own")
    parser.add_argument("--method", choices=METHODS, default="gptq")
    parser.add_argument("--where", default="*.layers.*", help="the weights to compress")
    parser.add_argument("--tried", default="*.layers.0.*.q_proj", help="those of the sensitivities")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"  GB resident {'before':>31s}{'at most':>9s}{'after':>9s}      time")
    staged("imports", imports)
    run(options)


def measured(model: Any, compressed: Any, task: Any, how: Any) -> None:
    """The stages of measuring a dense and a compressed model."""
    from lowrank.point import evaluate, measure

    size = how.of(task).batch_size
    on_validation = partial(evaluate, task=task, split="validation", batch_size=size)
    dense = staged("dense model measured", lambda: measure(model, task, how))
    outputs = staged("its outputs on validation", lambda: on_validation(model).outputs)
    staged("validation", lambda: on_validation(compressed, reference=outputs))
    staged("compressed model measured", lambda: measure(compressed, task, how, dense))


def imports() -> None:
    """Import what the other stages do."""
    import datasets  # noqa: F401
    import torchmetrics  # noqa: F401
    import transformers

    from lowrank.point import measure

    _ = measure, transformers.AutoModelForCausalLM


def run(options: argparse.Namespace) -> None:
    """The stages of a point."""
    from lowrank.allocation import Sensitivity
    from lowrank.point import MeasureSettings
    from lowrank.tasks import CausalLM, HubText, Packing

    # A row has some 60 tokens. Both are parts of one split, so that one file is needed.
    rows = 10 + options.tokens * options.test // 60
    name, config = "Salesforce/wikitext", "wikitext-2-raw-v1"
    task = CausalLM(
        name=None,
        architecture=options.model,
        pretrained=options.model,
        test=HubText(name, f"test[:{rows}]", config),
        train=HubText(name, f"test[-{10 * options.inputs * options.tokens // 60}:]", config),
        packing=Packing(options.tokens, separator="\n\n"),
        calibration_size=options.inputs,
        validation_size=options.test,
    )
    print(f"  {len(task.split('test'))} test inputs of {options.tokens} tokens")
    model = staged("the model", task.model)
    method, moment = METHODS[options.method]()
    norm = lowrank.CalibratedNorms(moment, mode="sequential")
    compress = lambda: lowrank.compress(model, method, options.where, norm=norm, data=task)  # noqa: E731
    compressed = staged(f"sequential {options.method}", compress)
    how = MeasureSettings(batch_size=options.batch, latency_batch_sizes=())
    measured(model, compressed.model, task, how)
    del compressed
    mix = lowrank.MixedAllocation(
        {"rounded": lowrank.Quantization(bits=4, group_size=32)},
        lowrank.Budget(2, of="layers"),
        loss=Sensitivity(examples=options.inputs),
        rivals=0,
    )
    spread = lambda: lowrank.compress(model, mix, options.tried, data=task)  # noqa: E731
    staged("sensitivities", spread)


if __name__ == "__main__":
    main()
