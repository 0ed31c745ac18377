"""The command of a record, run as its reader runs it."""

import shlex

import programs
from sweeps import ROOT, environment, records, run

from experiments.again import command_of_each
from lowrank.records import store


def test_the_command_of_a_record_measures_its_point_again(cache, tmp_path):
    settings = ["method=prune_quantize", "method.steps.0.sparsity=0.7", "seed=2"]
    done = run(cache, *settings, "sweep=two words", f"results={tmp_path / 'first'}")
    assert done.returncode == 0, done.stderr
    ((key, found),) = command_of_each(store.load(tmp_path / "first")).items()
    assert found.text is not None
    python, *rest = shlex.split(found.text)
    assert python == "python"
    second = f"results={tmp_path / 'second'}"
    again = programs.run(*rest, second, cwd=ROOT, env=environment(cache))
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "second" / f"{key}.json").is_file()
    assert records(tmp_path / "first") == records(tmp_path / "second")
