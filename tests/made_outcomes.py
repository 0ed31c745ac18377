"""Made-up outcomes of single examples, beside made-up records that say the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lowrank.records import store
from lowrank.records.companions import OUTCOMES, outcomes_name
from lowrank.records.outcomes import Outcomes
from lowrank.records.record import Record


def answers(share: float, n: int, seed: int = 0) -> np.ndarray:
    """0 or 1 for each of n examples, of which a share is 1; the hard ones are the same for all."""
    hardness = np.random.default_rng(seed).permutation(n)
    return (hardness < round(share * n)).astype(float)


def outcomes(
    dense: Mapping[str, np.ndarray], compressed: Mapping[str, np.ndarray], first: int = 0
) -> Outcomes:
    """Outcomes of examples numbered from `first`, each with one prediction."""
    n = len(next(iter(compressed.values())))
    return Outcomes(np.arange(first, first + n), np.ones(n), dict(dense), dict(compressed))


def with_outcomes(record: Mapping[str, Any], found: Outcomes) -> Record:
    """The record with these outcomes, and the metrics on it as they say."""
    averages = {one["name"]: one["average"] for one in record["metrics"] if one["average"]}
    parts = {}
    for part, values in (("dense", found.dense), ("compressed", found.compressed)):
        means = {
            name: float(np.average(values[name], weights=found.weights))
            for name in averages
            if name in values
        }
        exps = {name: math.exp(mean) for name, mean in means.items() if averages[name] == "exp"}
        parts[part] = record[part] | means | exps
    names = {OUTCOMES.field: outcomes_name(record["key"])}
    return Record({**record, **parts, **names}, found)


def images(record: Mapping[str, Any], n: int = 200, first: int = 0) -> Record:
    """An image record whose top-1 accuracies are rounded to what n examples can say."""
    seed = record["seed"]
    dense, top1 = (answers(record[part]["top1"], n, seed) for part in ("dense", "compressed"))
    right = {"top1": top1, "loss": 2.3 * (1 - top1), "flipped": (dense != top1).astype(float)}
    return with_outcomes(record, outcomes({"top1": dense, "loss": 2.3 * (1 - dense)}, right, first))


def text(record: Mapping[str, Any], n: int = 60) -> Record:
    """A language model's record whose losses of n sequences vary as those of stories do."""
    base = np.random.default_rng(record["seed"]).normal(0, 0.3, n)
    own = np.random.default_rng([*record["key"].encode()]).normal(0, 0.05, n)
    dense = math.log(record["dense"]["perplexity"]) + base - base.mean()
    loss = math.log(record["compressed"]["perplexity"]) + base - base.mean() + own - own.mean()
    return with_outcomes(
        record, outcomes({"perplexity": dense, "loss": dense}, {"perplexity": loss, "loss": loss})
    )


def write(folder: Path, made_up: Any) -> Path:
    """Save records, such as those of `images`, to `folder`."""
    for record in made_up:
        store.save(record, folder)
    return folder
