"""Seeds that draw nothing are known before anything runs."""

import pytest

from experiments.plan import SweepJob, say_repeats
from experiments.seeds import check_draws, repeats


def jobs(composer, *overrides, seeds=(0, 1, 2)):
    points = [[*overrides, f"seed={seed}"] for seed in seeds]
    return [SweepJob(point, composer.settings(point)) for point in points]


@pytest.mark.parametrize(
    "overrides, count",
    [
        (["task=cifar10", "method=magnitude"], 2),
        (["task=cifar10", "method=magnitude_global"], 2),
        (["task=stories260k", "method=svd"], 2),
        (["task=sst2_minilm", "method=prune_quantize"], 2),
        # What is drawn: the method, the calibration data, the order of training, the weights.
        (["task=cifar10", "method=random"], 0),
        (["task=cifar10", "method=lora_quantized"], 0),
        (["task=stories260k", "method=gptq"], 0),
        (["task=cifar10", "method=mix"], 0),
        (["task=cifar10", "recovery=finetune"], 0),
        (["task=digits", "method=magnitude"], 0),
        (["task=digits_cnn", "task.weights=null"], 0),
    ],
)
def test_which_points_repeat_others(composer, overrides, count):
    assert repeats(jobs(composer, *overrides)) == count


def test_points_that_differ_in_more_than_the_seed_repeat_nothing(composer):
    one = jobs(composer, "task=cifar10", "method.rank=4", seeds=[0])
    other = jobs(composer, "task=cifar10", "method.rank=8", seeds=[1])
    assert repeats(one + other) == 0


def test_another_draw_of_data_that_a_point_does_not_read_repeats_it(composer):
    drawn = [
        *jobs(composer, "method=magnitude", "task.calibration_seed=0", seeds=[0]),
        *jobs(composer, "method=magnitude", "task.calibration_seed=1", seeds=[0, 1]),
        *jobs(composer, "method=wanda", "task.calibration_seed=0", seeds=[0]),
        *jobs(composer, "method=wanda", "task.calibration_seed=1", seeds=[0]),
    ]
    # Of magnitude the two of seed 0: the other seed draws another model.
    assert repeats(drawn) == 1
    # One method reads them, so that the other has them too is no mistake.
    check_draws(drawn)
    with pytest.raises(ValueError, match="task.calibration_seed=1 has no effect"):
        check_draws(drawn[:3])
    # As where nothing is said.
    check_draws(drawn[:1])


def test_the_sweep_says_so_in_one_line(composer, capsys):
    drawn = jobs(composer, "task=cifar10", "method=random")
    say_repeats(drawn)
    assert capsys.readouterr().err == ""
    say_repeats(drawn + jobs(composer, "task=cifar10", "method=magnitude"))
    said = capsys.readouterr().err
    assert said.startswith("note: 2 of these 6 points only repeat another one: ")
    assert said.count("\n") == 1
