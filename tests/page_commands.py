"""Whether a command of a page can be: it is planned, and not run."""

from __future__ import annotations

import importlib
import os
import pydoc
import re
import shlex
import subprocess
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import cache as remembered
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from pages import ROOT

from experiments import plan
from experiments.composer import Composer
from experiments.parts import make_parts
from experiments.report import as_list
from experiments.report_options import options
from experiments.reproduce import Asked
from experiments.reproduction import entry

CONF = ROOT / "conf"
HUB = os.environ.get("LOWRANK_HUB")
# What pages say → what is there in a test: a model of the mirror, and the device.
THERE = {
    "task.pretrained=EleutherAI/pythia-160m": "task.pretrained=karpathy/stories260K",
    "task.pretrained=/models/mine": "task.pretrained=karpathy/stories260K",
    "device=cuda": "device=cpu",
}
# Tasks whose data come with a library, and that a test has the time to measure.
SMALL = ("task=digits", "task=digits_cnn")
# Packages that pages name without a version, for what is no part of lowrank.
BESIDE = {"jupyterlab", "llmcompressor"}


def jobs(arguments: list[str], each_choice: bool = False) -> list[plan.SweepJob]:
    """The points of a sweep's command line, composed as the program does.

    Args:
        each_choice: whether one point will do of those that differ in values of fields alone.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", arguments, run_mode=RunMode.MULTIRUN)
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=SimpleNamespace(config_loader=loader, callbacks=None),
            task_function=lambda config: None,
            config=config,
        )
        composer, arguments = Composer(loader, config), list(config.hydra.overrides.task)
        points = {
            tuple(choices(job) if each_choice else job): job for job in sweeper.jobs(arguments)
        }
        return [sweeper.job(job, arguments, composer) for job in points.values()]


def choices(job: Sequence[str]) -> list[str]:
    """Of the overrides of a point those that choose from a group."""
    return [text for text in job if (CONF / text.lstrip("+").partition("=")[0]).is_dir()]


@remembered
def check_sweep(*arguments: str) -> None:
    """Plan all points, and check them as far as data are here, as before a sweep."""
    is_written_down = any(argument.startswith("experiment=") for argument in arguments)
    # All points of the experiments are made in end_to_end/test_conf.py.
    there = [THERE.get(argument, argument) for argument in arguments]
    points = jobs(there, each_choice=is_written_down)
    assert points
    plan.pending(points)
    for point in points:
        make_parts(point.settings)
    if not is_written_down and (HUB or any(argument in SMALL for argument in arguments)):
        plan.check(points)


def check_report(arguments: list[str]) -> None:
    with initialize_config_dir(str(CONF / "report"), version_base="1.3"):
        options(compose("report", [as_list(one) for one in arguments]))


class Parsed(Exception):
    """The arguments of a program are all known."""


def parse_only(parser: ArgumentParser, arguments: list[str] | None = None) -> None:
    """Stands in for `parse_args`, and ends the program there."""
    _, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise ValueError(f"unknown arguments: {unknown}")
    raise Parsed


def check_reproduce(arguments: list[str]) -> None:
    with initialize_config_dir(str(CONF / "reproduce"), version_base="1.3"):
        asked = Asked(**compose("reproduce", arguments))
    assert asked.table in (None, "all") or entry.load(asked.table)


def check_benchmark(module: str, arguments: list[str]) -> None:
    program = importlib.import_module(module)
    assert callable(program.main)
    if arguments:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):
            patch.setattr(sys, "argv", [module, *arguments])
            patch.setattr(ArgumentParser, "parse_args", parse_only)
            program.main()


def behind_make(arguments: list[str]) -> list[str]:
    """The commands of lowrank's programs that `make` would run."""
    asked = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    if asked.returncode:
        raise ValueError(asked.stderr)
    lines = asked.stdout.replace("\\\n", " ").splitlines()
    return [
        line[line.index("python -m experiments.") :]
        for line in lines
        if "python -m experiments." in line
    ]


def check_extra(what: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = re.fullmatch(r"\.\[(\w+)\]", what)
    assert asked and asked[1] in project["optional-dependencies"], what


def check_install(arguments: list[str]) -> None:
    match arguments:
        case ["-c", constraints, "-e", what]:
            assert (ROOT / constraints).is_file()
            check_extra(what)
        case ["."]:
            pass
        case [what] if what.startswith("."):
            check_extra(what)
        case [name]:
            assert name in BESIDE, name
        case _:
            raise ValueError(f"no test knows these arguments of pip: {arguments}")


def check_run(module: str, arguments: list[str]) -> None:
    """Run what only prints."""
    command = [sys.executable, "-m", module, *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    if ended.returncode or not ended.stdout:
        raise ValueError(ended.stderr)


def check(command: str) -> None:
    """Raise unless a command can be; one of a kind that is not known cannot."""
    match shlex.split(command):
        case ["python", "-m", "experiments.sweep" | "experiments.report" as module, *arguments] if {
            "--help",
            "--cfg",
        } & {*arguments}:
            check_run(module, arguments)
        case ["python", "-m", "experiments.sweep", *arguments]:
            check_sweep(*arguments)
        case ["python", "-m", "experiments.report", *arguments]:
            check_report(arguments)
        case ["python", "-m", "experiments.inspect", *arguments]:
            with initialize_config_dir(str(CONF / "inspect"), version_base="1.3"):
                assert compose("inspect", arguments).record
        case ["python", "-m", "experiments.reproduce", *arguments]:
            check_reproduce(arguments)
        case ["python", "-m", module, *arguments] if module.startswith("experiments.benchmarks."):
            check_benchmark(module, arguments)
        case ["lowrank", ("show" | "export" | "compress") as name, *arguments] if (
            "--help" in arguments
        ):
            check_run(f"experiments.{name}", arguments)
        case ["lowrank", ("show" | "export" | "compress") as name, *arguments]:
            check_benchmark(f"experiments.{name}", arguments)
        case ["python", "-m", "pydoc", name]:
            assert pydoc.locate(name) is not None, name
        case ["make", *arguments]:
            for line in behind_make(arguments):
                check(line)
        case ["pip" | "DIR/bin/pip", "install", *arguments]:
            check_install(arguments)
        case (
            ["git", "clone", "<this", "repository>", "lowrank"]
            | ["cd", "lowrank"]
            | ["python", "-m", "venv", "DIR"]
        ):
            pass
        case [".", ".venv/bin/activate"]:
            assert "BIN := .venv/bin\n" in (ROOT / "Makefile").read_text()
        case _:
            raise ValueError(f"no test knows this kind of command: {command}")
