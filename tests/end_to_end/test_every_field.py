"""Every field of every class that a config names can be set from the command line."""

import dataclasses
import importlib
import subprocess
import sys

import pytest
from hydra import compose
from sweeps import ROOT

from experiments.composer import NO_FIELDS
from experiments.parts import make
from lowrank.calibration import CalibratedNorms
from lowrank.model.select import Select
from lowrank.point import MeasureSettings
from lowrank.recovery import FineTune, Gradual, Tune

pytestmark = pytest.mark.usefixtures("composing")

CONF = ROOT / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
CHOICES = [
    (group, path.stem)
    for group in GROUPS
    if group not in NO_FIELDS
    for path in sorted((CONF / group).glob("*.yaml"))
]
# What is not for the user: `compress` or an allocation fills it in.
FILLED_IN = {"CanonicalPolyadic": {"kernel_size"}, "Tucker2": {"kernel_size"}}
BY_ALLOCATION = {"owl": {"sparsity"}}


def lacking(node, path, given=frozenset()):
    """The fields that configs below a node do not name, with their places."""
    if isinstance(node, list):
        node = {str(number): part for number, part in enumerate(node)}
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        module, _, name = node["_target_"].rpartition(".")
        target = getattr(importlib.import_module(module), name)
        if dataclasses.is_dataclass(target):
            for field in dataclasses.fields(target):
                known = {*node, *given, *FILLED_IN.get(name, ())}
                if field.init and field.name not in known:
                    yield f"{path}.{field.name} of {name}"
    for key, part in node.items():
        # A grid gives what it is over to the class that it is of.
        yield from lacking(part, f"{path}.{key}", set(node.get("over", ())) | given)


@pytest.mark.parametrize("group, name", CHOICES)
def test_every_choice_names_every_field(composer, group, name):
    settings = composer.settings([f"{group}={name}"])
    assert not list(lacking(settings[group], group, frozenset(BY_ALLOCATION.get(name, ()))))


def test_a_field_that_is_not_named_would_be_found():
    step = {"_target_": "lowrank.decomposers.MagnitudePruning", "sparsity": 0.5}
    config = {"_target_": "lowrank.decomposers.Chain", "steps": [step]}
    assert list(lacking(config, "method")) == [
        "method.steps.0.compression_ratio of MagnitudePruning",
        "method.steps.0.pattern of MagnitudePruning",
        "method.steps.0.within of MagnitudePruning",
    ]


@pytest.mark.parametrize(
    "group, name, expected",
    [
        ("measure", "default", MeasureSettings()),
        ("where", "all", Select()),
        ("norm", "diagonal", CalibratedNorms("diagonal")),
        ("recovery", "tune", Tune()),
        ("recovery", "finetune", FineTune(epochs=1, learning_rate=1e-3)),
        ("recovery", "gradual", Gradual(epochs=15, learning_rate=1e-3)),
    ],
)
def test_the_plain_choices_are_the_defaults_of_their_classes(composer, group, name, expected):
    made, given = make(composer.settings([f"{group}={name}"])[group]), {}
    for field in dataclasses.fields(expected):
        value, default = getattr(made, field.name), getattr(expected, field.name)
        given[field.name] = tuple(value) if isinstance(value, list) else value
        assert given[field.name] == (tuple(default) if isinstance(default, list) else default)


@pytest.mark.parametrize(
    "overrides, place, value",
    [
        (["measure.optimize=exact"], ("measure", "optimize"), "exact"),
        (["measure.harness_tasks=[arc_easy]"], ("measure", "harness_tasks"), ["arc_easy"]),
        (["recovery=finetune", "recovery.momentum=0.5"], ("recovery", "momentum"), 0.5),
        (["task=mnist", "task.source.size=[32,32]"], ("task", "source", "size"), [32, 32]),
        (["task=causal_lm", "task.trust_remote_code=true"], ("task", "trust_remote_code"), True),
        (["task.split_seed=3"], ("task", "split_seed"), 3),
        (["values=bfloat16"], ("values",), "bfloat16"),
    ],
)
def test_fields_are_set_without_a_plus(composer, overrides, place, value):
    found = composer.settings(overrides)
    for key in place:
        found = found[key]
    assert found == value


def test_the_seed_draws_calibration_data_but_where_an_experiment_follows_a_protocol(composer):
    for task in ("digits", "cifar10", "mnist_lenet5", "sst2_minilm", "stories260k"):
        settings = composer.settings([f"task={task}", "seed=7"])
        assert settings["task"]["calibration_seed"] == settings["task"]["seed"] == 7
    for name in ("stories260k", "stories260k_reference", "sst2_minilm"):
        assert composer.settings([f"experiment={name}"])["task"]["calibration_seed"] is None
    drawn = composer.settings(["experiment=budget_stories260k", "seed=2"])
    assert drawn["task"]["calibration_seed"] == 2


def test_a_task_alone_is_composed_too():
    """As a notebook does."""
    config = compose("task/stories260k")
    assert config.task.calibration_seed == config.task.seed == 0


def test_help_explains_every_group_and_every_field(composer):
    command = [sys.executable, "-m", "experiments.sweep", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    groups = {group for group, _ in CHOICES} | {"experiment"}
    fields = set(composer.settings([])) - groups
    for name in groups | fields:
        assert [line for line in lines if line.startswith(f"  {name} ") and len(line) > 30], name
    assert "--cfg job --package method" in said.stdout


def test_a_line_of_help_shows_the_fields_of_a_choice():
    command = "-m experiments.sweep method=gptq --cfg job --package method".split()
    said = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert "group_size: 64" in said.stdout and "sweeps: 0" in said.stdout
