"""What the names of `import lowrank` cost when they are first used, above `import torch`.

    python -m experiments.benchmarks.import_cost             # about a minute on 2 cores
    python -m experiments.benchmarks.import_cost --names compress --rounds 20

Each name is used in a new process, the names in turns with `import torch` alone. Seconds of the
processor, median and range over the rounds, and the median of what is above torch in the same
round; those on the clock depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys

from experiments.benchmarks.sweep_cost import describe

NAMES = ("compress", "load", "TruncatedSVD")
ALONE = "import torch"


def seconds(program: str) -> float:
    """What a new process takes of the processor to run a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Bytecode is kept, as where it is installed.
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--names", nargs="+", default=NAMES)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    programs = {"torch": ALONE}
    programs |= {name: f"{ALONE}, lowrank; lowrank.{name}" for name in options.names}
    for program in programs.values():  # Whatever is read or compiled the first time only.
        seconds(program)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, program in programs.items():
            times[name].append(seconds(program))
    for name, values in times.items():
        above = statistics.median(a - b for a, b in zip(values, times["torch"], strict=True))
        print(f"  {name:12s} {describe(values)}  above torch {above:6.3f} s")


if __name__ == "__main__":
    main()
