"""Every config that ships is composed and made into the objects that it names."""

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from sweeps import ROOT

from experiments.composer import Composer, resolve
from experiments.parts import make, make_parts
from experiments.trackers import Tracker

pytestmark = pytest.mark.usefixtures("composing")

CONF = ROOT / "conf"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "group, name",
    [
        (group, name)
        for group in ("task", "decomposer", "allocation", "where", "recovery", "measure")
        for name in names(group)
    ],
)
def test_every_choice_of_every_group_is_made(composer, group, name):
    settings = composer.settings([f"{group}={name}"])
    make_parts(settings)
    assert isinstance(settings["level"], int | float)
    labels = {settings[label] for label in ("method", "family", "recovery_name")}
    assert all(isinstance(label, str) and label for label in labels)
    if group == "decomposer":
        assert settings["method"] == name


@pytest.mark.parametrize("name", names("tracker"))
def test_every_tracker_is_made(composer, name):
    assert isinstance(make(composer.settings([f"tracker={name}"])["tracker"]), Tracker)


def test_the_seed_and_device_of_a_sweep_reach_its_parts(composer):
    parts = make_parts(composer.settings(["decomposer=random", "seed=7", "device=cuda:3"]))
    assert (parts.task.seed, parts.task.device) == (7, "cuda:3")
    assert parts.allocation.decomposer.seed == 7


@pytest.mark.parametrize(
    "overrides, level",
    [
        (["decomposer=svd", "decomposer.rank=3"], 3),
        (["decomposer=svd", "decomposer.rank=null", "decomposer.energy=0.9"], 0.9),
        (["decomposer=magnitude", "decomposer.sparsity=null", "decomposer.compression_ratio=8"], 8),
        (["decomposer=random", "decomposer.sparsity=0.25"], 0.25),
        (["decomposer=nm", "nm.n=1", "nm.m=4"], 0.75),
        (["decomposer=prune_quantize", "decomposer.steps.0.sparsity=0.8"], 0.8),
        (["decomposer=lora", "decomposer.rank=2"], 2),
        (["allocation=kept_energy", "allocation.compression_ratio=5"], 5),
        (["decomposer=codebook", "decomposer.bits=3"], 3),
    ],
)
def test_the_level_is_the_hyperparameter_that_was_given(composer, overrides, level):
    assert composer.settings(overrides)["level"] == level


@pytest.mark.parametrize(
    "overrides",
    [
        ["decomposer=quantization", "decomposer.bits=3", "seed=2"],
        ["decomposer.rank=5", "task=mnist", "where.exclude=[fc1]", "threads=2"],
        ["allocation=global_magnitude", "allocation.sparsity=0.25", "+note=x"],
        ["experiment=mnist_finetune", "decomposer=codebook"],
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


def test_a_value_for_an_option_that_is_not_there_names_it(composer):
    with pytest.raises(ConfigCompositionException, match="decomposer.rnk=4"):
        composer.settings(["decomposer.rnk=4"])


def experiment_jobs(name):
    config = compose("config", overrides=[f"experiment={name}"], return_hydra_config=True)
    loader = GlobalHydra.instance().config_loader()
    composer = Composer(loader, config)
    sweeper = sweeper_for(config, loader)
    return [composer.settings(job) for job in sweeper.jobs([f"experiment={name}"])]


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
    settings = experiment_jobs(name)
    assert {point["sweep"] for point in settings} == {name}
    for point in settings:
        make_parts(point)
    levels: dict[str, set[float]] = {}
    for point in settings:
        levels.setdefault(point["method"], set()).add(point["level"])
    if not name.endswith("_reference"):  # Those are single points, no curves.
        assert min(map(len, levels.values())) >= 4


@pytest.mark.parametrize("name", ["digits", "mnist", "mnist_finetune", "cifar10"])
def test_the_comparisons_cover_every_family(name):
    families = {point["family"] for point in experiment_jobs(name)}
    assert families - {"mix"} == {"low rank", "sparse", "quantized", "hybrid", "adapter"}


def test_the_main_job_has_every_family_at_five_levels_and_three_seeds():
    points = {(p["method"], p["level"], p["seed"]) for p in experiment_jobs("digits")}
    methods = {method for method, _, _ in points}
    assert len(methods) == 21
    assert "mix" in methods
    for method in methods:
        for seed in (0, 1, 2):
            assert len({level for m, level, s in points if (m, s) == (method, seed)}) >= 5
