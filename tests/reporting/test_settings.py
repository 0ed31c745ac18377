"""The settings of which each method takes its best are compared at the same seeds."""

import json

import made_records as records
import numpy as np
import pandas as pd
import pytest

from lowrank.metrics.metric import Metric
from lowrank.records import store
from lowrank.reporting.settings import at_best_settings, best_of, scores_of

JUDGED = "validation_top1"


def rows(*found):
    return pd.DataFrame(found, columns=["rate", "epochs", "seed", JUDGED])


def test_a_setting_is_no_better_for_a_seed_that_others_lack():
    """Seed 1 is easier, and only one of the rates was run with it."""
    lacking = rows((0.1, 1, 0, 0.80), (0.01, 1, 0, 0.70), (0.01, 1, 1, 0.99))
    scores = scores_of(lacking, ["rate"], JUDGED)
    assert scores.to_dict() == {0.1: 0.8, 0.01: 0.7} and scores.name == JUDGED


def test_settings_need_not_form_a_grid():
    found = [(0.1, 1, 0, 0.2), (0.1, 1, 1, 0.4), (0.01, 3, 0, 0.5), (0.01, 3, 1, 0.6)]
    scores = scores_of(rows(*found), ["rate", "epochs"], JUDGED)
    assert scores.to_dict() == pytest.approx({(0.1, 1): 0.3, (0.01, 3): 0.55})


@pytest.mark.parametrize("setting", ["seed", "rate"])
def test_the_best_seed_is_no_best_setting(setting):
    of_seeds = rows((0.1, 1, 0, 0.8), (0.01, 1, 1, 0.9))
    with pytest.raises(ValueError, match=f"no seed has all values of {setting}, so the best"):
        scores_of(of_seeds, [setting], JUDGED)


def test_of_equal_values_the_first_is_the_best():
    """The same answers counted at another precision are no better."""
    found = rows((0.01, 1, 0, np.float32(0.9)), (0.1, 1, 0, 0.9), (0.2, 1, 0, 0.8))
    metrics = json.dumps(records.plain([Metric("top1", "top-1", "top-1", "percent")]))
    scores = scores_of(found, ["rate"], JUDGED)
    assert scores[0.01] != scores[0.1]
    assert best_of(found.assign(metrics=metrics), scores) == {"rate": 0.01}
    turned = scores[::-1]
    assert best_of(found.assign(metrics=metrics), turned) == {"rate": 0.1}


@pytest.fixture
def tuned(tmp_path):
    for step in range(3):
        for rate in (0.1, 0.01):
            recovery = {"_target_": "tune", "learning_rate": rate, "epochs": 1}
            store.save(records.record("svd", step, recovery=recovery), tmp_path)
    store.save(records.record("uniform", 0), tmp_path)
    return store.load(tmp_path)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "recovery.learning_rat",
            r"no record has a value of 'recovery.learning_rat'; there are recovery.learning_rate, "
            r".*recovery.epochs",
        ),
        (
            "validation_top",
            "no record has a value of 'validation_top'; there are .*validation_top1",
        ),
        ("zzz", "no record has a value of 'zzz'$"),
        ("recovery.learning_rate", r"1 of 7 records lack 'recovery.learning_rate', such as .*json"),
    ],
)
def test_a_setting_that_records_lack_is_told_from_one_that_some_lack(tuned, setting, said):
    with pytest.raises(ValueError, match=said):
        at_best_settings(tuned, [setting], "top1")
    own = tuned[tuned["method"] == "svd"]
    best, table = at_best_settings(own, ["recovery.learning_rate"], "top1")
    assert len(best) == 3 and list(table.values["tried"]) == [2, 2, 2]


def test_a_measure_that_no_record_has_is_named(tuned):
    with pytest.raises(ValueError, match="no record has a value of 'validation_perplexity'"):
        at_best_settings(tuned, ["method.rank"], "perplexity")
