"""What the points of a sweep share in one process, and how a process is left by a point."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from sweeps import ROOT

from experiments import point
from experiments.composer import Composer
from lowrank.point import computing, dense
from lowrank.tasks import ImageClassification

UNTRAINED = ("task=digits", "task.weights=null", "measure=quick", "method=wanda")


@pytest.fixture(scope="module")
def composer():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield Composer(loader, compose("config", return_hydra_config=True))


@pytest.fixture
def counts(monkeypatch):
    """How often a dense model was made, and how often one was measured."""
    found = {"made": 0, "measured": 0}
    model, measure = ImageClassification.model, dense.measure

    def counted_model(task):
        found["made"] += 1
        return model(task)

    def counted_measure(model, task, settings, dense=None, counted=None):
        found["measured"] += dense is None
        return measure(model, task, settings, dense, counted)

    monkeypatch.setattr(ImageClassification, "model", counted_model)
    monkeypatch.setattr(dense, "measure", counted_measure)
    dense.dense_model.cache_clear()
    dense.dense_macs.cache_clear()
    dense.dense_baseline.cache_clear()
    return found


def records(composer, *overrides, seeds=(0, 1, 2)):
    found = []
    for seed in seeds:
        settings = composer.settings([*UNTRAINED, *overrides, f"seed={seed}"])
        found.append(point.measured(settings))
    return found


def test_a_published_model_is_made_and_measured_once_for_all_seeds(composer, counts, monkeypatch):
    monkeypatch.setattr(ImageClassification, "draws_model", False)
    found = records(composer)
    assert counts == {"made": 1, "measured": 1}
    assert len({record["key"] for record in found}) == 3
    assert all(record["dense"] == found[0]["dense"] for record in found)
    # Its calibration data are drawn for each seed all the same.
    assert len({str(record["layers"]) for record in found}) == 3


def test_a_model_that_the_seed_draws_is_one_for_each_seed(composer, counts):
    assert len({record["dense"]["loss"] for record in records(composer)}) == 3
    assert counts == {"made": 3, "measured": 3}


def test_another_draw_of_the_calibration_data_shares_the_model_that_a_seed_draws(composer, counts):
    for draw in (0, 1):
        records(composer, f"task.calibration_seed={draw}", seeds=[0])
    assert counts == {"made": 1, "measured": 1}


def test_a_recovery_of_the_dense_model_draws_for_each_seed(composer, counts, monkeypatch):
    monkeypatch.setattr(ImageClassification, "draws_model", False)
    found = records(composer, "recovery=finetune", "recovery.epochs=1", seeds=[0, 1])
    assert counts == {"made": 1, "measured": 1}
    assert found[0]["dense_before_recovery"] == found[1]["dense_before_recovery"]
    assert found[0]["dense"]["loss"] != found[1]["dense"]["loss"]


def test_no_more_than_one_dense_model_is_held():
    assert dense.dense_model.cache_info().maxsize == 1


def test_the_threads_of_a_point_are_not_those_of_the_next():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ArithmeticError), computing(0, 1):
            assert torch.get_num_threads() == 1
            raise ArithmeticError
        with computing(0, None):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
