"""Records as a sweep writes them, with numbers made up by rule: what the tests of results read."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lowrank.metrics.metric import Metric
from lowrank.records import store
from lowrank.records.companions import OUTCOMES, outcomes_name
from lowrank.records.outcomes import Outcomes
from lowrank.records.record import Record
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.class_metrics import class_metrics
from lowrank.tasks.task import loss_metric
from lowrank.tasks.text_metrics import LIKELIHOOD

# method → (family, levels, strength of the loss in accuracy); the ratio follows from the level.
METHODS: dict[str, tuple[str, tuple[float, ...], float]] = {
    "svd": ("low rank", (32, 16, 8, 4, 2), 0.050),
    "svd_energy": ("low rank", (0.99, 0.95, 0.9, 0.8, 0.6), 0.045),
    "magnitude": ("sparse", (0.5, 0.75, 0.9, 0.95, 0.98), 0.012),
    "magnitude_global": ("sparse", (0.5, 0.75, 0.9, 0.95, 0.98), 0.009),
    "random": ("sparse", (0.5, 0.75, 0.9, 0.95, 0.98), 0.110),
    "n_m": ("sparse", (3, 2, 1.5, 1.2, 1), 0.030),
    "uniform": ("quantized", (8, 6, 4, 3, 2), 0.010),
    "codebook": ("quantized", (8, 6, 4, 3, 2), 0.007),
    "low_rank_plus_sparse": ("hybrid", (2, 4, 8, 16, 32), 0.020),
    "prune_then_quantize": ("hybrid", (2, 4, 8, 16, 32), 0.006),
    "lora": ("adapted", (1, 2, 4, 8, 16), -0.002),
}
# Of a language model: method → (family, norm, bits per weight by level, perplexity by level).
CELLS: dict[str, tuple[str, str, dict[float, float], tuple[float, ...]]] = {
    "svd": ("low rank", "identity", {1.25: 12.66, 1.67: 9.28, 2.5: 6.2}, (201.0, 2400.0, 21000.0)),
    "asvd": ("low rank", "diagonal", {1.25: 12.66, 1.67: 9.28, 2.5: 6.2}, (154.0, 460.0, 3100.0)),
    "fwsvd": ("low rank", "fisher", {1.25: 12.66, 1.67: 9.28, 2.5: 6.2}, (170.0, 700.0, 2500.0)),
    "svd_llm": ("low rank", "full", {1.25: 12.66, 1.67: 9.28, 2.5: 6.2}, (32.7, 78.2, 250.0)),
    "magnitude": ("sparse", "identity", {0.3: 12.2, 0.5: 9.0, 0.7: 5.8}, (7.1, 44.8, 372.0)),
    "wanda": ("sparse", "diagonal", {0.3: 12.2, 0.5: 9.0, 0.7: 5.8}, (5.6, 21.9, 190.0)),
    "sparsegpt": ("sparse", "full", {0.3: 12.2, 0.5: 9.0, 0.7: 5.8}, (5.8, 20.6, 116.0)),
    "rtn": ("quantized", "identity", {4: 4.32, 3: 3.31, 2: 2.31}, (5.241, 11.504, 900.0)),
    "hqq": ("quantized", "identity", {4: 4.5, 3: 3.5, 2: 2.5}, (5.293, 9.22, 1200.0)),
    "awq": ("quantized", "diagonal", {4: 4.33, 3: 3.32, 2: 2.32}, (5.17, 8.9, 310.0)),
    "gptq": ("quantized", "full", {4: 4.32, 3: 3.31, 2: 2.58}, (5.085, 7.869, 120.0)),
}
# The nine of them that the two axes of the design make.
NINE = tuple(name for name in CELLS if name not in ("fwsvd", "hqq"))
DENSE_PERPLEXITY = 4.756


def plain(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Metrics as a record holds them."""
    return [dataclasses.asdict(metric) for metric in metrics]


METRICS = plain([*class_metrics(10, top=(1, 5)), loss_metric(), *agreement_metrics("example")])
TEXT_METRICS = plain([*LIKELIHOOD, loss_metric("token"), *agreement_metrics("token")])
AVERAGED = ("top1", "loss", "flipped")
# Of a record whose metrics are no averages of its examples.
NO_ERRORS: dict[str, dict[str, float]] = {"dense": {}, "compressed": {}, "change": {}}
LAYERS = (("0", 300, 784), ("2", 100, 300), ("4", 10, 100))


def record(method: str = "svd", /, step: int = 1, seed: int = 0, **config: Any) -> dict[str, Any]:
    """The record of a method at its level number `step`; fields of `config` replace the default."""
    family, levels, loss = METHODS[method]
    ratio = _ratio(method, step, seed)
    drop = loss * (step + 1) ** 2 / 2
    dense_top1 = 0.970 + 0.004 * (seed % 3)
    top1 = max(0.1, dense_top1 - drop - 0.006 * step * ((seed * 7 + step) % 3 - 1))
    settings = {
        "task": {"_target_": "tests.Task", "name": "digits", "seed": seed},
        "method": {"_target_": f"lowrank.{method}", "rank": levels[step], "axes": [0, 1]},
        "recovery": {"_target_": None},
        "seed": seed,
        "sweep": "made-up",
        **copy.deepcopy(config),
    }
    dense = _quality(dense_top1) | _size(1.0)
    return {
        "schema": store.SCHEMA,
        "key": store.key(settings),
        "config": settings,
        "task": "digits",
        "model": "mlp",
        "method": method,
        "family": family,
        "level": float(levels[step]),
        "norm": "identity",
        "recovery": "none",
        "dense_recovery": "none",
        "allocates": False,
        "tuned": False,
        "seed": seed,
        "metrics": METRICS,
        "dense": dense,
        "compressed": _quality(top1) | _size(ratio) | {"flipped": drop / 2 + 0.1, "kl": 0.3},
        "ratios": {
            "compression_ratio": ratio,
            "param_ratio": ratio * 0.9,
            "theoretical_speedup": _speedup(family, ratio),
            "layers_compression_ratio": ratio * 1.1,
            "layers_param_ratio": ratio,
        },
        "latency": [_latency(batch, _speedup(family, ratio), seed) for batch in (1, 64)],
        "layers": [_layer(*layer, ratio, loss * (step + 1)) for layer in LAYERS],
        "skipped": [["5", "no weight matrix"]],
        "left": [],
        "validation": _quality(top1 - 0.002 * (step % 2)),
        "standard_errors": {
            "dense": {"top1": 0.008, "loss": 0.02},
            "compressed": {"top1": 0.009, "loss": 0.03, "kl": 0.004},
            "change": {"top1": 0.004, "loss": 0.015},
        },
        "environment": {"torch": "2.13.0", "device": "cpu", "threads": 1, "git_commit": None},
        "timings": {"compress_s": 0.01, "total_s": 0.5, "finished_at": "2026-01-01T00:00:00Z"},
    }


def with_outcomes(made_up: dict[str, Any], count: int = 360) -> Record:
    """A record of a classifier with the outcomes of as many images; both models have about its top1
    of them right, and the record says how many."""
    random = np.random.default_rng(int(made_up["key"], 16))
    target, hard = random.integers(0, 10, count), random.permutation(count) / count
    values = {}
    for part in ("dense", "compressed"):
        noise = 0.05 * random.normal(size=count) if part == "compressed" else 0
        right = (hard + noise < made_up[part]["top1"]).astype(float)
        values[part] = {
            "top1": right,
            "loss": 2.3 * (1 - right) + 0.1 * random.random(count),
            "predicted": np.where(right, target, (target + 1) % 10),
            "confidence": 0.5 + 0.5 * random.random(count),
        }
    flipped = values["dense"]["predicted"] != values["compressed"]["predicted"]
    values["compressed"]["flipped"] = flipped.astype(float)
    examples = np.arange(count) * 7919
    outcomes = Outcomes(examples, np.ones(count), values["dense"], values["compressed"], target)
    named = {OUTCOMES.field: outcomes_name(made_up["key"])}
    means = {
        part: made_up[part]
        | {name: float(found[name].mean()) for name in AVERAGED if name in found}
        for part, found in values.items()
    }
    return Record(made_up | means | named, outcomes)


def text_record(method: str, step: int, seed: int = 0) -> dict[str, Any]:
    """The record of a language model in a cell of the table of methods, at its level `step`."""
    family, norm, sizes, perplexities = CELLS[method]
    level, bits = list(sizes.items())[step]
    made_up = record("svd", 1, seed, method={"_target_": method, "rank": level})
    data = {"_target_": "lowrank.calibration.Norms", "moment": norm, "mode": "one-shot"}
    made_up["config"] |= {"norm": data}
    perplexity = perplexities[step] * (1 + 0.02 * seed)
    layers = [
        layer | {"norm": norm, "norm_error": layer["relative_error"] / 2, "bits_per_weight": bits}
        for layer in made_up["layers"]
    ]
    small = {"layers_compression_ratio": 32 / bits, "layers_bits_per_weight": bits}
    ratio = 1 / (0.2 + 0.8 * bits / 32)
    small |= {"compression_ratio": ratio, "body_compression_ratio": ratio * 1.05}
    dense = _text_quality(DENSE_PERPLEXITY) | _size(1.0)
    return made_up | {
        "key": store.key(made_up["config"]),
        **{"task": "stories", "model": "llama", "method": method, "family": family},
        **{"norm": norm, "level": float(level), "layers": layers, "dense": dense, "latency": []},
        "metrics": TEXT_METRICS,
        "compressed": _text_quality(perplexity) | _size(ratio) | {"kl": 0.1 * perplexity},
        "ratios": made_up["ratios"] | small,
        "validation": _text_quality(perplexity * 1.01),
        "standard_errors": {
            "dense": {"perplexity": 0.03},
            "compressed": {"perplexity": 0.03 * perplexity, "kl": 0.01},
            "change": {"perplexity": 0.02 * perplexity},
        },
        "calibration": None if norm == "identity" else {"samples": 64, "seconds": 1.5},
    }


def write_texts(folder: Path, seeds: int = 1, methods: tuple[str, ...] = tuple(CELLS)) -> Path:
    """Save the records of `CELLS` at their three levels for each seed to `folder`."""
    for method in methods:
        for step in range(3):
            for seed in range(seeds):
                store.save(text_record(method, step, seed), folder)
    return folder


def records(seeds: int = 3, methods: tuple[str, ...] = tuple(METHODS)) -> Iterator[dict[str, Any]]:
    """Every method at its five levels for each seed."""
    for method in methods:
        for step in range(5):
            for seed in range(seeds):
                yield record(method, step, seed)


def write(folder: Path, seeds: int = 3, methods: tuple[str, ...] = tuple(METHODS)) -> Path:
    """Save `records(...)` to `folder`."""
    for made_up in records(seeds, methods):
        store.save(made_up, folder)
    return folder


def _ratio(method: str, step: int, seed: int) -> float:
    if method == "lora":
        return 0.97 - 0.06 * step
    base = {"uniform": 3.9, "codebook": 3.7}.get(method, 1.9)
    growth = {"uniform": 1.4, "codebook": 1.38}.get(method, 2.05)
    return base * growth**step * (1 + 0.01 * seed)


def _speedup(family: str, ratio: float) -> float:
    return 1.0 if family == "quantized" else ratio**0.8


def _quality(top1: float) -> dict[str, float]:
    return {
        "top1": top1,
        "top5": 1 - (1 - top1) / 4,
        "macro_recall": top1 - 0.003,
        "macro_f1": top1 - 0.005,
        "loss": 2.3 * (1 - top1),
    }


def _text_quality(perplexity: float) -> dict[str, float]:
    return {
        "perplexity": perplexity,
        "word_perplexity": perplexity**1.4,
        "loss": math.log(perplexity),
        "bits_per_byte": math.log2(perplexity) / 2.8,
    }


def _size(ratio: float) -> dict[str, int]:
    size = int(1_064_000 / ratio)
    return {
        "params": size // 4,
        "trainable_params": size // 4,
        "bytes": size,
        "macs": size // 4,
        "peak_memory_bytes": size * 2,
    }


def _latency(batch: int, speedup: float, seed: int) -> dict[str, Any]:
    dense, measured = 1e-4 * batch**0.5, speedup**0.6 * (0.95 + 0.05 * seed)
    return {
        "batch_size": batch,
        "dense_s": dense,
        "dense_iqr_s": dense / 20,
        "compressed_s": dense / measured,
        "compressed_iqr_s": dense / measured / 15,
        "speedup": measured,
        "speedup_low": measured * 0.9,
        "speedup_high": measured * 1.1,
        "threads": 1,
        "device": "cpu",
        "dtype": "float32",
    }


def _layer(name: str, out: int, into: int, ratio: float, error: float) -> dict[str, Any]:
    size = out * into * 4
    return {
        "name": name,
        "kind": "Linear",
        "shape": (out, into),
        "decomposer": "TruncatedSVD(rank=8)",
        "factorization": f"LowRank {into}→8→{out}",
        "relative_error": max(0.0, error * (1 + out / 300)),
        "dense_bytes": size,
        "bytes": int(size / ratio),
        "dense_params": size // 4,
        "params": int(size / ratio) // 4,
        "dense_macs": size // 4,
        "macs": int(size / ratio) // 4,
        "bits_per_weight": 32 / ratio,
        "kernel": "factored",
        "tied_to": [],
        "note": "",
    }
