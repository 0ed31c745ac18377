"""Pages of the explorer made from made-up records, and what is in them."""

import base64
import json
import re
import zlib
from pathlib import Path

import made_records as records
import numpy as np

from lowrank.records import outcomes, store
from lowrank.records.companions import OUTCOMES, outcomes_name
from lowrank.reporting import explorer
from lowrank.reporting.explorer.data import Command

EXAMPLES = 50


def page(folder: Path, commands: dict[str, Command] | None = None, title: str = "made up") -> str:
    return explorer.page(*store.load_both(folder), commands or {}, title)


def content(text: str, name: str) -> bytes:
    """What lies packed in the element of that name."""
    found = re.search(
        rf'<script type="application/octet-stream" id="{name}">([^<]*)</script>', text
    )
    assert found is not None
    return zlib.decompress(base64.b64decode(found[1]))


def data(text: str) -> dict:
    return json.loads(content(text, "data"))


def outcomes_of(seed: int, examples: int = EXAMPLES, share: float = 0.8) -> outcomes.Outcomes:
    """What a model and its dense one did on examples in an order of their own."""
    random, common = np.random.default_rng(seed), np.random.default_rng(0)
    sides = {
        side: {
            "top1": (random.random(examples) < share).astype(float),
            "loss": random.gamma(2, size=examples).astype("f4").astype(float),
        }
        for side in ("dense", "compressed")
    }
    order = random.permutation(examples)
    hashes = common.choice(10**12, examples, replace=False).astype(np.int64)
    return outcomes.Outcomes(hashes[order], np.ones(examples), **sides)


def save(record: dict, folder: Path, own: outcomes.Outcomes) -> None:
    """Save a record with its outcomes, and the means of these."""
    folder.mkdir(parents=True, exist_ok=True)
    name = outcomes_name(record["key"])
    outcomes.write(own, folder / name)
    for side in ("dense", "compressed"):
        record[side] |= {
            metric: float(np.average(values, weights=own.weights))
            for metric, values in getattr(own, side).items()
        }
    store.save(record | {OUTCOMES.field: name}, folder)


def with_outcomes(folder: Path, methods: tuple[str, ...] = ("svd", "uniform")) -> Path:
    """Records of two methods at two levels with two seeds each, all on the same examples."""
    for number, made_up in enumerate(records.records(2, methods)):
        if made_up["level"] in (records.METHODS[made_up["method"]][1][:2]):
            save(made_up, folder, outcomes_of(number))
    return folder
