"""A recipe of a method says what its class does where nothing is said, or says why not."""

import dataclasses
import importlib

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from sweeps import ROOT

from experiments.composer import Composer

CONF = ROOT / "conf"
NAMES = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
# One of these is given, and says how strong the method is: none is more usual than the others.
LEVELS = ("rank", "ranks", "sparsity", "compression_ratio", "ratio", "sparse_weight")

# Reasons for which a recipe differs.
BY_ROW = "as published: each output row keeps equally many"
GROUPS = "as published at few bits: groups of 64 with zero points"
PATTERN = "the name says so"
SCALE = "the name says so: scales by least squared error"
ZEROS = "the name says so: zero points"
SWEEPS = "as published: coordinate descent follows"
HERE = "each layer by what it does to the outputs, measured with few probes"

GROUPED = {"group_size": GROUPS, "symmetric": GROUPS}
OTHERS = {
    "alps": {"within": BY_ROW},
    "alps_nm": {"pattern": PATTERN},
    "awq": GROUPED,
    "gptq": GROUPED,
    "deep_compression": {"method.steps.1.start": "as published: centroids start at even steps"},
    "lora_quantized": {"init": "starts from what quantization loses", "base": "the name says so"},
    "mix": {
        "candidates.quantized.of.symmetric": GROUPS,
        "candidates.quantized.of.sweeps": SWEEPS,
        "candidates.pruned_quantized.quantization.sweeps": SWEEPS,
        "loss.probes": HERE,
    },
    "nm": {"pattern": PATTERN},
    "owl": {"of.within": BY_ROW},
    "pruned_quantized": {"pruning.within": BY_ROW, "quantization.sweeps": SWEEPS},
    "quantease": GROUPED | {"sweeps": SWEEPS},
    "quantization_mse": {"scale": SCALE},
    "quantization_zero_points": {"scale": SCALE, "symmetric": ZEROS},
    "quantized_low_rank": {
        "base.group_size": GROUPS,
        "base.symmetric": GROUPS,
        "base.sweeps": SWEEPS,
    },
    "rank_search": {"budget.of": "as published: the ratio is that of the layers"},
    "rtn": GROUPED | {"scale": "best of its kind: scales by least squared error"},
    "rtn_weighted": GROUPED | {"scale": "a range has no weights: scales by least squared error"},
    "sparsegpt_nm": {"pattern": PATTERN},
    "svd_channel": {"view": "the name says so"},
    "wanda": {"within": BY_ROW},
}


@pytest.fixture(scope="module")
def composer():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield Composer(loader, compose("config", return_hydra_config=True))


def differing(node, place=""):
    """The fields in which configs below a node differ from the defaults of their classes."""
    if isinstance(node, list):
        node = {str(number): part for number, part in enumerate(node)}
    if not isinstance(node, dict):
        return
    module, _, name = node.get("_target_", "builtins.dict").rpartition(".")
    target = getattr(importlib.import_module(module), name)
    for field in dataclasses.fields(target) if dataclasses.is_dataclass(target) else ():
        default = field.default
        if field.name not in node or default is dataclasses.MISSING:
            continue
        value = node[field.name]
        value = tuple(value) if isinstance(value, list) else value
        is_level = default is None and field.name in LEVELS
        if not is_level and value != default:
            yield f"{place}{field.name}"
    for key, part in node.items():
        yield from differing(part, f"{place}{key}.")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_defaults_of_its_class_but_where_it_says_why(composer, name):
    config = composer.settings([f"method={name}"])["method"]
    assert sorted(differing(config)) == sorted(OTHERS.get(name, ()))


def test_every_exception_is_of_a_recipe():
    assert set(OTHERS) <= set(NAMES)
    assert all(reason for reasons in OTHERS.values() for reason in reasons.values())


def test_another_value_would_be_found():
    step = {"_target_": "lowrank.decomposers.GPTQ", "bits": 4, "symmetric": False, "sweeps": 0}
    config = {"_target_": "lowrank.decomposers.Chain", "steps": [step]}
    assert list(differing(config)) == ["steps.0.symmetric"]
