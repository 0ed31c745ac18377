"""Every config that ships is composed and made into the objects that it names."""

import functools
import json

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from sweeps import ROOT

from experiments import parts
from experiments.composer import Composer, resolve
from experiments.parts import make, make_parts
from experiments.trackers import Tracker
from lowrank.point.dense import text

pytestmark = pytest.mark.usefixtures("composing")

CONF = ROOT / "conf"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "group, name",
    [
        (group, name)
        for group in ("task", "method", "where", "recovery", "measure")
        for name in names(group)
    ],
)
def test_every_choice_of_every_group_is_made(composer, group, name):
    settings = composer.settings([f"{group}={name}"])
    method = make_parts(settings).method
    assert isinstance(method.level, int | float) and method.family != "other"
    labels = {settings[label] for label in ("method_name", "norm_name", "recovery_name")}
    assert all(isinstance(label, str) and label for label in labels)
    if group == "method":
        assert settings["method_name"] == name


@pytest.mark.parametrize("name", names("tracker"))
def test_every_tracker_is_made(composer, name):
    assert isinstance(make(composer.settings([f"tracker={name}"])["tracker"]), Tracker)


def test_the_seed_and_device_of_a_sweep_reach_its_parts(composer):
    made = make_parts(composer.settings(["method=random", "seed=7", "device=cuda:3"]))
    assert (made.task.seed, made.task.device) == (7, "cuda:3")
    assert made.method.seed == 7


@pytest.mark.parametrize(
    "overrides, level",
    [
        (["method=svd", "method.rank=3"], 3),
        (["method=svd", "method.rank=null", "method.energy=0.9"], 0.9),
        (["method=magnitude", "method.sparsity=null", "method.compression_ratio=8"], 8),
        (["method=random", "method.sparsity=0.25"], 0.25),
        (["method=nm", "method.pattern=1:4"], 0.75),
        (["method=prune_quantize", "method.steps.0.sparsity=0.8"], 0.8),
        (["method=lora", "method.rank=2"], 2),
        (["method=svd_energy", "method.compression_ratio=5"], 5),
        (["method=codebook", "method.bits=3"], 3),
        (["method=mix", "method.budget.ratio=null", "method.budget.bits_per_weight=3.3"], 3.3),
        (["method=pruned_quantized", "method.pruning.sparsity=0.75"], 0.75),
        (["method=robust_pca", "method.sparse_weight=0.2"], 0.2),
    ],
)
def test_the_level_is_the_hyperparameter_that_was_given(composer, overrides, level):
    assert make_parts(composer.settings(overrides)).method.level == level


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=quantization", "method.bits=3", "seed=2"],
        ["method.rank=5", "task=mnist", "where.exclude=[fc1]", "threads=2"],
        ["method=magnitude_global", "method.sparsity=0.25"],
        ["experiment=mnist_finetune", "method=codebook"],
    ],
)
def test_points_are_composed_as_hydra_composes_them(composer, overrides):
    expected = compose("config", overrides=overrides, return_hydra_config=True)
    ours = composer.load_sweep_config(composer.master, overrides)
    assert list(ours.hydra.overrides.task) == overrides
    assert ours.hydra.runtime.choices == expected.hydra.runtime.choices
    settings = composer.settings(overrides)
    HydraConfig.instance().set_config(expected)
    own = OmegaConf.masked_copy(expected, [key for key in expected if key != "hydra"])
    assert settings == resolve(own)


def test_a_field_of_the_users_is_for_others_to_refer_to(composer):
    assert composer.settings(["+share=3", "method.rank=${share}"])["method"]["rank"] == 3
    with pytest.raises(ConfigCompositionException, match="nothing reads the field share"):
        composer.settings(["+share=3", "method.rank=3"])
    with pytest.raises(ConfigCompositionException, match="nothing reads the field share:"):
        composer.settings(["+share=3", "+shared=3", "method.rank=${shared}"])


def test_a_value_for_an_option_that_is_not_there_names_it(composer):
    with pytest.raises(ConfigCompositionException, match="method.rnk=4"):
        composer.settings(["method.rnk=4"])


@functools.cache
def points(name):
    """The settings and the method of each point of an experiment."""
    config = compose("config", overrides=[f"experiment={name}"], return_hydra_config=True)
    loader = GlobalHydra.instance().config_loader()
    composer = Composer(loader, config)
    sweeper = sweeper_for(config, loader)
    settings = [composer.settings(job) for job in sweeper.jobs([f"experiment={name}"])]
    with pytest.MonkeyPatch.context() as patch:
        # Most parts of a point are those of others too.
        patch.setattr(parts, "make", lambda config: made(text(config)))
        return [(point, make_parts(point).method) for point in settings]


@functools.cache
def made(config):
    """What a part's configuration (JSON) names."""
    return make(json.loads(config))


def sweeper_for(config, loader):
    from types import SimpleNamespace

    from hydra.core.plugins import Plugins

    sweeper = Plugins.instance().instantiate_sweeper(
        hydra_context=SimpleNamespace(config_loader=loader, callbacks=None),
        task_function=lambda config: None,
        config=config,
    )
    return sweeper


@pytest.mark.parametrize("name", names("experiment"))
def test_every_point_of_every_experiment_is_made(name):
    levels: dict[str, list[float | None]] = {}
    for settings, method in points(name):
        assert settings["sweep"] == name
        if settings["seed"] == 0:
            levels.setdefault(settings["method_name"], []).append(method.level)
    assert levels
    # Single points, and those of several tasks on one base, are no curves over sizes.
    if not name.endswith(("_reference", "_tasks", "_tasks_rates")):
        assert min(len(set(given)) for given in levels.values()) >= 4
        # Two points of one method and level would be drawn as one, which the report refuses.
        assert all(len(set(given)) == len(given) for given in levels.values())


@pytest.mark.parametrize("name", ["digits", "mnist", "mnist_finetune", "cifar10"])
def test_the_comparisons_cover_every_family(name):
    families = {method.family for _, method in points(name)}
    assert families - {"mix"} == {"low rank", "sparse", "quantized", "hybrid", "adapter"}


def test_the_main_job_has_every_family_at_five_levels_and_three_seeds():
    found = {
        (settings["method_name"], method.level, settings["seed"])
        for settings, method in points("digits")
    }
    methods = {method for method, _, _ in found}
    assert len(methods) == 21
    assert "mix" in methods
    for method in methods:
        for seed in (0, 1, 2):
            assert len({level for m, level, s in found if (m, s) == (method, seed)}) >= 5
