"""The settings of which each method takes its best are compared at the same seeds."""

import pandas as pd
import pytest

from lowrank.reporting.settings import scores_of

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
