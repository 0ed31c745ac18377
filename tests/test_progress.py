"""The line that a sweep prints for each point."""

import pytest

from experiments.progress import counting

RECORD = {
    "task": "digits",
    "model": "mlp",
    "method": "gptq",
    "level": 3,
    "seed": 1,
    "norm": "full",
    "recovery": "tune",
    "metrics": [{"name": name} for name in ("mse", "top1", "word_perplexity", "loss")],
    "dense": {"loss": 0.1, "top1": 0.98},
    "compressed": {"loss": 0.2, "top1": 0.5},
    "ratios": {"compression_ratio": 7.1234},
    "timings": {"total_s": 0.51},
}


@pytest.mark.parametrize(
    "changes, point",
    [
        ({}, "gptq 3, full norm + tune, seed 1"),
        ({"norm": "identity", "recovery": "none", "level": None}, "gptq, seed 1"),
    ],
)
def test_it_says_which_point_it_is_and_what_came_out(changes, point, capsys):
    with counting(total=4, done=2) as progress:
        progress.finished(RECORD | changes)
    expected = f"[3/4, 0:00 left] digits mlp {point}  top1 0.500 (dense 0.980)  7.12x  0.5 s\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    "ratios, size",
    [
        ({"layers_bits_per_weight": 4.321}, "7.12x, 4.32 bits"),
        (
            {"layers_bits_per_weight": 4.321, "coverage": 0.2},
            "7.12x, 4.32 bits, 20 % of weights comp",
        ),
        ({"coverage": 0.9949}, "7.12x, 99.5 % of weights compressed"),
        ({"coverage": 0.9951}, "7.12x  0.5 s"),
        ({"coverage": 1.0}, "7.12x  0.5 s"),
    ],
)
def test_a_ratio_comes_with_bits_and_with_what_was_compressed(ratios, size, capsys):
    with counting(total=1, done=0) as progress:
        progress.finished(RECORD | {"ratios": RECORD["ratios"] | ratios})
    assert f"  {size}" in capsys.readouterr().out


@pytest.mark.parametrize("count, said", [(1, "1 layer left as it is"), (3, "3 layers left as")])
def test_layers_that_could_not_be_compressed_are_counted(count, said, capsys):
    with counting(total=1, done=0) as progress:
        progress.finished(RECORD | {"left": [["fc", "too small"]] * count})
    assert f"  7.12x, {said}" in capsys.readouterr().out


def test_a_task_of_another_kind_shows_what_it_measures_first(capsys):
    measures = {"dense": {"mse": 1.0, "mae": 2.0}, "compressed": {"mse": 3.0, "mae": 4.0}}
    with counting(total=1, done=0) as progress:
        progress.finished(RECORD | measures)
    assert "  mse 3.000 (dense 1.000)  " in capsys.readouterr().out


def test_a_failure_says_why_and_goes_to_stderr(capsys):
    with counting(total=2, done=0) as progress:
        progress.failed("method.rank=99", "too large")
    printed = capsys.readouterr()
    assert printed.err.startswith("[1/2, 0:00 left] FAILED method.rank=99: too large")
    assert not printed.out


def test_a_measure_that_one_model_lacks_is_not_shown(capsys):
    """The perplexity of words may be beyond all numbers for one of the two."""
    changes = {"dense": {"loss": 0.5}, "compressed": {"word_perplexity": 9.0, "loss": 0.75}}
    with counting(total=1, done=0) as progress:
        progress.finished(RECORD | changes)
    assert "  loss 0.750 (dense 0.500)  " in capsys.readouterr().out


def test_two_models_without_a_measure_in_common_have_no_quality(capsys):
    with counting(total=1, done=0) as progress:
        progress.finished(RECORD | {"dense": {}})
    assert "seed 1  no quality  7.12x" in capsys.readouterr().out


def test_the_count_is_that_of_all_processes(capsys):
    with counting(total=3, done=0) as progress:
        progress.present("rank=1")
        progress.failed("rank=2", "too large")
        progress.present("rank=3")
        assert progress.ticks.stat().st_size == 3
    assert capsys.readouterr().out.startswith(
        "[1/3, 0:00 left] rank=1  was measured by another process\n[3/3, 0:00 left] rank=3  "
    )
    assert not progress.ticks.exists()
