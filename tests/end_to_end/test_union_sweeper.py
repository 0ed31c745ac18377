"""The sweeper's list of points, from an experiment's grids and the command line."""

import itertools
from types import SimpleNamespace

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

pytestmark = pytest.mark.usefixtures("composing")


def jobs(params, union, arguments=()):
    config = compose("config", return_hydra_config=True)
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_struct(config, False)
    config.hydra.sweeper.params = params
    config.hydra.sweeper.union = union
    sweeper = Plugins.instance().instantiate_sweeper(
        hydra_context=SimpleNamespace(config_loader=GlobalHydra.instance().config_loader()),
        task_function=lambda config: None,
        config=config,
    )
    return list(sweeper.jobs(list(arguments)))


def test_a_union_is_the_sum_of_its_grids_and_not_their_product():
    union = [{"method": "svd", "method.rank": "1,2"}, {"method": "lora,codebook"}]
    assert jobs({}, union) == [
        ["method=svd", "method.rank=1"],
        ["method=svd", "method.rank=2"],
        ["method=lora"],
        ["method=codebook"],
    ]


def test_without_grids_comma_lists_and_ranges_are_swept_as_usual():
    points = jobs({}, [], ["method.rank=range(1,4)", "threads=1", "method=svd,svd_channel"])
    ranks, methods = ("1", "2", "3"), ("svd", "svd_channel")
    assert points == [
        [f"method.rank={rank}", "threads=1", f"method={method}"]
        for rank, method in itertools.product(ranks, methods)
    ]


def test_what_points_share_varies_slowest():
    points = jobs({"threads": "1,2"}, [{"method.rank": "1,2"}], ["seed=0,1"])
    assert [point[0] for point in points] == ["seed=0"] * 4 + ["seed=1"] * 4
    assert [point[1] for point in points] == [
        "threads=1",
        "threads=1",
        "threads=2",
        "threads=2",
    ] * 2


def test_the_command_line_replaces_what_an_experiment_says_and_no_point_comes_twice():
    union = [{"method.rank": "1,2", "where": "all,inner"}, {"method.rank": "2,3"}]
    assert jobs({"seed": "0,1,2"}, union, ["seed=5", "where=inner"]) == [
        ["seed=5", "where=inner", "method.rank=1"],
        ["seed=5", "where=inner", "method.rank=2"],
        ["seed=5", "where=inner", "method.rank=3"],
    ]


def test_an_interval_is_no_list_of_points():
    with pytest.raises(ConfigCompositionException, match="method.rank=interval"):
        jobs({}, [], ["method.rank=interval(1,4)"])
