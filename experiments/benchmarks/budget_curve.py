"""Benchmark: the time of a curve over 16 budgets, against one analysis of the candidates.

    python -m experiments.benchmarks.budget_curve task=digits
    python -m experiments.benchmarks.budget_curve experiment=budget_sst2_minilm \\
        method.budget.of=layers

In one process: the analysis of all candidates, then for each budget the choice, the compression and
the evaluation on the test split. The ratio is of the whole to one analysis and 16 evaluations.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from experiments.composed import on_one_line
from experiments.required import require
from experiments.yaml_folders import CONF
from lowrank.compression.compress import compress
from lowrank.numerics.memo import unchanging
from lowrank.point import computing
from lowrank.point.quality import evaluate

BUDGETS = [2 * 8 ** (index / 15) for index in range(16)]  # 2 … 16


def main() -> None:
    """Run the benchmark of the command line's config.

    Raises:
        SystemExit: with one line, what is wrong with it.
    """
    require("this benchmark", "hydra")
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf import open_dict
    from omegaconf.errors import OmegaConfBaseException

    from experiments.composer import resolve

    # A program that sweeps nothing does not know our sweeper.
    overrides = ["hydra/sweeper=basic", "method=mix", *sys.argv[1:]]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        settings = resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        # What follows says where Hydra looked.
        sys.exit(f"budget_curve: {on_one_line(error).partition(' Config search path:')[0]}")
    with computing(settings["seed"], settings["threads"]):
        run(settings)


def run(settings: dict[str, Any]) -> None:
    """Time the curve and print it."""
    from experiments.parts import make_parts

    parts = make_parts(settings)
    dense = unchanging(parts.task.model())
    evaluate(dense, parts.task, batch_size=parts.measure.batch_size)  # Data are read once.
    chosen, evaluated = [], []
    for ratio in BUDGETS:
        settings["method"]["budget"] |= {"ratio": ratio, "bits_per_weight": None}
        method = make_parts(settings).method
        started = time.perf_counter()
        model = compress(dense, method, parts.where, None, parts.norm, parts.task).model
        chosen.append(time.perf_counter() - started)
        started = time.perf_counter()
        evaluate(model, parts.task, batch_size=parts.measure.batch_size)
        evaluated.append(time.perf_counter() - started)
    # The time of the first choice has the analysis besides that of every other choice.
    analysis = chosen[0] - statistics.median(chosen[1:])
    print(f"analysis           {analysis:8.2f} s")
    print(f"choice, compression {statistics.median(chosen[1:]):7.2f} s a budget")
    print(f"evaluation         {statistics.median(evaluated):8.2f} s a budget")
    whole = sum(chosen) + sum(evaluated)
    print(f"whole curve        {whole:8.2f} s, {len(BUDGETS)} budgets")
    print(f"whole / (analysis + evaluations)  {whole / (analysis + sum(evaluated)):.2f}")


if __name__ == "__main__":
    main()
