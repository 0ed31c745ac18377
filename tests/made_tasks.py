"""Records of several tasks on one base, with numbers made up by rule."""

import itertools

import made_records
import numpy as np

from lowrank.records.companions import OUTCOMES, outcomes_name
from lowrank.records.outcomes import Outcomes
from lowrank.records.record import Record

TASKS = ("plain", "rotated", "noisy")
# Method, level → share of images that are right, shared and own bytes.
POINTS = {
    ("full", 1): (0.95, 0, 1000),
    ("lora", 2): (0.80, 1000, 40),
    ("lora", 8): (0.93, 1000, 160),
    ("shared", 4): (0.80, 1100, 20),
    ("shared", 16): (0.92, 1400, 80),
}
COUNT = 400


def right(share, task, seed, count=COUNT):
    """The hardest images are wrong, with some noise by task and seed."""
    random = np.random.default_rng([TASKS.index(task), seed])
    hard = np.arange(count) * 7919 % count / count
    return (hard + 0.03 * random.normal(size=count) < share).astype(float)


def made(method, level, task, seed, rate=0.1, values=None, target=None, **sharing):
    share, shared, own = POINTS[method, level]
    config = {
        "task": {"_target_": "tests.Task", "name": task, "seed": seed},
        "method": {"_target_": f"lowrank.{method}", "rank": level},
        "recovery": {"_target_": "lowrank.FineTune", "learning_rate": rate},
    }
    record = made_records.record("lora", 1, seed, **config)
    value = right(share, task, seed) if values is None else values
    target = np.arange(len(value)) % 10 if target is None else target
    dense = {"top1": np.ones(len(value))}
    place = TASKS.index(task)
    examples = np.arange(len(value)) * len(TASKS) + place
    outcomes = Outcomes(examples, np.ones(len(value)), dense, {"top1": value}, target)
    mean = {"top1": float(value.mean())}
    found = {"shared_bytes": shared, "shared_hash": f"{method} {level} {seed}", "own_bytes": own}
    changes = {
        **{"task": task, "method": method, "level": float(level), "recovery": "finetune"},
        **{"dense_recovery": "finetune", "tuned": True, "sharing": found | sharing},
        "compressed": record["compressed"] | mean,
        "dense": record["dense"] | {"top1": 1.0},
        "dense_before_recovery": {"top1": 0.3 + 0.1 * place},
        "validation": record["validation"] | mean,
        OUTCOMES.field: outcomes_name(record["key"]),
    }
    return Record(record | changes, outcomes)


def every(points=POINTS, tasks=TASKS, seeds=(0, 1, 2), **options):
    cases = itertools.product(points, tasks, seeds)
    return [made(method, level, task, seed, **options) for (method, level), task, seed in cases]
