"""The commands of README, docs/ and results/: all can be, and the cheap ones of pages are run."""

import os
import re
import shlex
from inspect import signature

import pages
import programs
import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from page_commands import (
    CONF,
    SMALL,
    behind_make,
    check,
    check_report,
    check_reproduce,
    jobs,
)
from pages import PAGES, RESULTS, ROOT, commands

import lowrank
from lowrank.export.formats import FORMATS, format_class

# What makes a sweep smaller that is run: whatever it is, and where it has such an option.
BRIEF = ["measure.latency_seconds=0.01", "threads=1"]
LESS = {
    "seed=": "seed=0",
    "hydra.launcher.n_jobs=": "hydra.launcher.n_jobs=2",
    "method.budget.ratio=": "method.budget.ratio=4,8",
}
# A field that the text sets → the choice whose field it is; the first one that fits.
CHOICES = {
    "method.update": "method=sparsegpt",
    "method.init": "method=lora_quantized",
    "method.iterations": "method=lora_quantized",
    "recovery.": "recovery=finetune",
    "method.": "method=mix",
    "norm.": "norm=full",
    "measure.": "task=causal_lm",
    "task.": "task=causal_lm",
    "hydra.launcher": "hydra/launcher=joblib",
}
# What the text says that a sweep refuses.
REFUSED = {"method=gptq,awq method.group_size=32"}
# What is set like that in Python alone; `where`, for one, is a group of a sweep as well.
CALLED = (
    *(lowrank.compress, lowrank.optimize_for, lowrank.export_model, lowrank.export_peft),
    lowrank.compress_checkpoint,
    *map(format_class, FORMATS),
)
ARGUMENTS = {name for function in CALLED for name in signature(function).parameters}
ARGUMENTS -= {path.name for path in CONF.iterdir()} | {*OmegaConf.load(CONF / "config.yaml")}
ALL = [command for page in [*PAGES, *RESULTS] for command in commands(page)]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, cache):
    """Planning makes the folder of the records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRANK_CACHE", str(cache))


@pytest.mark.parametrize("command", dict.fromkeys(ALL), ids=lambda command: command[:90])
def test_command_can_be(command):
    check(command)


@pytest.mark.parametrize(
    "command",
    [
        "python -m experiments.sweep method=svdd",
        "python -m experiments.sweep task=digits method.rnk=4",
        "python -m experiments.sweep task=digits method=svd method.rank=4000",
        "python -m experiments.sweep experiment=nothing",
        "python -m experiments.sweep --cfg nothing",
        "python -m experiments.report run=results/runs/mine",
        "python -m experiments.reproduce table=nothing",
        "python -m experiments.reproduce measure=nothing",
        "python -m experiments.benchmarks.nothing",
        "python -m experiments.benchmarks.sweep_cost --ranks 4",
        "python -m pydoc lowrank.decomposers.Nothing",
        "python -m nothing",
        "make nothing",
        "make causal_lm MODEL=some/model ARGS=task=nothing",
        "pip install nothing",
        "pip install -c constraints.txt -e .[nothing]",
        ". venv/bin/activate",
        "curl somewhere",
    ],
)
def test_command_that_cannot_be_is_found(command):
    wrong = (ValueError, AssertionError, ImportError, SystemExit, ConfigCompositionException)
    with pytest.raises(wrong):
        check(command)


def test_the_programs_behind_make_are_looked_at():
    for arguments in (["sweep"], ["causal_lm", "MODEL=a/b"]):
        sweep, report = behind_make(arguments)
        assert "experiments.sweep" in sweep and "experiments.report" in report


def settings(page) -> list[list[str]]:
    """What inline code of a page sets: words of the kind name=value, but placeholders."""
    found = [shlex.split(code) for code in pages.inline(page) if "…" not in code]
    return [words for words in found if all(re.match(r"\+?[a-z_./]+=", word) for word in words)]


SETTINGS = [words for page in PAGES for words in settings(page)]


@pytest.mark.parametrize("words", SETTINGS, ids=" ".join)
def test_settings_in_the_text_can_be(words):
    names = {word.lstrip("+").partition("=")[0] for word in words}
    if " ".join(words) in REFUSED:
        with pytest.raises(ConfigCompositionException):
            jobs(words)
    elif names <= set(OmegaConf.load(CONF / "report/report.yaml")):
        check_report(words)
    elif names <= set(OmegaConf.load(CONF / "reproduce/reproduce.yaml")):
        check_reproduce(words)
    elif not names <= ARGUMENTS:
        above = {next((key for key in CHOICES if name.startswith(key)), None) for name in names}
        assert jobs([*(CHOICES[key] for key in above if key), *words])


def cheap(page) -> list[list[str]]:
    """The sweeps of small tasks of a page, made smaller, and the reports on their folders."""
    found, folders = [], set()
    for command in commands(page):
        match shlex.split(command):
            case ["python", "-m", "experiments.sweep", *arguments] if {*SMALL} & {*arguments}:
                less = [LESS[key] for key in LESS for own in arguments if own.startswith(key)]
                found.append(["experiments.sweep", *arguments, *less, *BRIEF])
                folders |= {f"runs=results/runs/{a[6:]}" for a in arguments if a[:6] == "sweep="}
            case ["python", "-m", "experiments.report", *arguments] if folders & {*arguments}:
                found.append(["experiments.report", *arguments])
    return found


RUN = {page: cheap(page) for page in PAGES if cheap(page)}


@pytest.mark.parametrize("page", RUN, ids=pages.name)
def test_cheap_commands_run(page, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for module, *arguments in RUN[page]:
        ended = programs.run("-m", module, *arguments, cwd=tmp_path, env=environment, timeout=300)
        assert ended.returncode == 0, ended.stderr
        said = {"sweep": "0 failed", "report": "records of"}[module.partition(".")[2]]
        assert said in ended.stdout
    assert [*tmp_path.glob("results/runs/*/*.json")]


REFUSING = [(page, *pair) for page in PAGES for pair in pages.refused(page, "sh").items()]


@pytest.mark.parametrize("page, command, error", REFUSING, ids=lambda value: str(value)[:60])
def test_commands_are_refused_as_the_page_says(page, command, error, tmp_path):
    words = shlex.split(command)[1:]
    ended = programs.run(*words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert ended.returncode != 0 and not [*tmp_path.glob("results/runs/*/*.json")]
    assert error in " ".join((ended.stdout + ended.stderr).split())


def test_the_commands_of_the_readme_are_run():
    assert [module for module, *_ in RUN[ROOT / "README.md"]] == [
        "experiments.sweep",
        "experiments.report",
    ]
