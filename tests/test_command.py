"""The command `lowrank`, in a folder of the user's with YAML of his own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pages
import programs
import pytest

from experiments import command
from experiments.compress import made
from experiments.yaml_folders import CONF, check_own, own

ROOT = Path(__file__).parents[1]
MINE = """# @package _global_
defaults: [svd]
method: {_target_: my_methods.Mine, rank: 5}
"""


def run(*arguments, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    program = ("-m", "experiments.command", *arguments)
    return programs.run(*program, cwd=folder, env=environment)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "program", ["command", "inspect", "reproduce", "show", "export", "compress"]
)
def test_a_program_starts_where_nothing_is_imported_yet(program):
    started = [sys.executable, "-m", f"experiments.{program}", "--help"]
    done = subprocess.run(started, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_the_programs(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lowrank", *arguments])
    command.main()
    said = capsys.readouterr().out
    assert "lowrank sweep" in said and "lowrank report" in said


def test_a_command_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lowrank", "swep"])
    with pytest.raises(SystemExit, match="no command 'swep': there are sweep, report"):
        command.main()


@pytest.mark.parametrize("name", sorted(command.PROGRAMS.keys() - {"show", "export"}))
def test_a_command_without_its_extra_says_what_installs_it(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lowrank", name])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install 'lowrank.*sweep"):
        command.main()


def test_a_choice_of_the_user_is_found(folder):
    said = run("sweep", "method=mine", "--cfg", "job", "--package", "method", folder=folder)
    assert "_target_: my_methods.Mine\nrank: 5\n" in said.stdout, said.stderr


def test_a_choice_with_the_name_of_another_is_refused(folder):
    (folder / "conf" / "method" / "svd.yaml").write_text(MINE)
    said = run("sweep", "method=svd", folder=folder)
    assert said.returncode == 1
    assert "conf/method/svd.yaml has the name of a choice of lowrank's own" in said.stderr


def test_a_copy_of_a_choice_is_no_other(folder):
    copied = folder / "conf" / "method" / "svd.yaml"
    copied.write_bytes((CONF / "method" / "svd.yaml").read_bytes())
    check_own()


def test_a_folder_without_yaml_and_that_of_the_project_have_none_of_their_own(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert own() is None
    monkeypatch.chdir(ROOT)
    assert own() is None
    check_own()


def test_a_report_does_not_take_the_yaml_of_where_it_is_run_for_the_users(folder):
    """That may have come with somebody's records: it has to be named."""
    code = (
        "from experiments.known_tasks import known_tasks;"
        "print('mine' in [name for name, _ in known_tasks()])"
    )
    (folder / "conf" / "task").mkdir()
    (folder / "conf" / "task" / "mine.yaml").write_text("name: mine\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = programs.run("-c", code, cwd=folder, env=environment)
    assert said.stdout == "False\n", said.stderr


def test_a_report_is_of_the_users_experiment_too(folder):
    (folder / "conf" / "experiment").mkdir()
    said = run("report", "experiment=mine", folder=folder)
    assert said.returncode == 1 and "results/runs/mine" in said.stderr, said.stderr


def test_a_kernel_of_the_users_is_timed_in_a_sweep(folder, monkeypatch):
    page = pages.DOCS / "how-to-add-things.md"
    (shown,) = [block for block in pages.blocks(page, "python") if "(Kernel)" in block]
    (folder / "my_kernels.py").write_text(shown)
    monkeypatch.setenv("LOWRANK_CACHE", str(folder / "cache"))
    kernels = "measure.optimize.kernels=[{_target_: my_kernels.Einsum}]"
    small = ["task.weights=null", "method.rank=2", "threads=1", "results=records"]
    quick = ["measure.latency_batch_sizes=[1]", "measure.latency_seconds=0.02"]
    said = run("sweep", "measure=own_kernels", kernels, *small, *quick, folder=folder)
    assert "1 measured here" in said.stdout, said.stderr
    (path,) = (folder / "records").glob("*.json")
    (timed,) = json.loads(path.read_text())["execution"]
    for layer in timed["plan"]["layers"]:
        (trial,) = [one for one in layer["trials"] if one["kernel"] == "einsum"]
        assert trial["seconds"] > 0 and trial["error"] < 1e-5 and not trial["refused"]


def test_a_kernel_with_the_name_of_another_is_refused_before_anything_runs(folder):
    (folder / "my_kernels.py").write_text(
        "from lowrank.execution.dense import DenseKernel\nclass Mine(DenseKernel): pass\n"
    )
    kernels = "measure.optimize.kernels=[{_target_: my_kernels.Mine}]"
    said = run("sweep", "measure=own_kernels", kernels, "results=records", folder=folder)
    assert said.returncode == 1 and "Nothing was run" in said.stderr, said.stderr
    assert "must begin with 'dense'" in said.stderr and "have different names" in said.stderr


def test_the_task_of_a_checkpoint_reads_texts_by_its_tokenizer():
    settings = ["method=gptq", "task=causal_lm"]
    assert made(settings, "here")["data"].pretrained == "here"
    assert made([*settings, "task.pretrained=there"], "here")["data"].pretrained == "there"
    assert "data" not in made(["method=rtn"], "here")


def test_a_task_of_a_checkpoint_that_no_method_reads_is_refused():
    with pytest.raises(ValueError, match="calibration data, which this method does not read"):
        made(["method=rtn", "task=causal_lm"], "here")
