"""What is not installed is said with the command that installs it, and the rest runs without."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lowrank.files import extras
from lowrank.files.extras import EXTRAS, INCLUDED, MissingExtra, need

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Libraries that pip calls otherwise than Python does.
CALLED = {"PIL": "pillow", "hydra": "hydra-core", "sklearn": "scikit-learn"}


def names(requirements):
    """The projects that requirements name."""
    return {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}


def test_everything_but_the_core_is_hidden_and_the_core_runs():
    program = ROOT / "tests" / "core_program.py"
    run = subprocess.run(
        [sys.executable, "-W", "error", str(program), "hiding"], capture_output=True, text=True
    )
    assert run.stdout.endswith("all of it\n"), run.stderr


def test_the_extras_are_those_of_the_project():
    required = {extra: names(them) for extra, them in PROJECT["optional-dependencies"].items()}
    for library, extra in EXTRAS.items():
        assert CALLED.get(library, library.replace("_", "-")) in required[extra]
    told = {CALLED.get(library, library.replace("_", "-")) for library in EXTRAS}
    for extra in ("tasks", "reports", "sweep", "harness", "peers"):
        assert required[extra] - {"lowrank"} <= told
    assert not names(PROJECT["dependencies"]) & told


def test_an_extra_includes_what_the_project_says():
    optional = PROJECT["optional-dependencies"]

    def included(extra):
        own = [part for text in optional[extra] for part in re.findall(r"lowrank\[(.*)\]", text)]
        inner = {name for part in own for name in part.split(",")}
        return inner.union(*map(included, inner))

    for extra in set(EXTRAS.values()):
        assert INCLUDED.get(extra, set()) == included(extra)


def test_what_is_there_is_not_refused():
    need("a test", "pandas", "matplotlib")


@pytest.mark.parametrize(
    "libraries, text",
    [
        (["pandas"], r"a test cannot be had without pandas, which is not .*'lowrank\[reports\]'$"),
        (["sklearn", "PIL"], r"sklearn and PIL, which are not installed.*'lowrank\[tasks\]'$"),
        (["pandas", "PIL"], r"'lowrank\[reports,tasks\]'$"),
        (["pandas", "hydra", "PIL"], r"'lowrank\[sweep\]'$"),
        (["lm_eval", "sklearn", "pandas"], r"'lowrank\[harness,reports\]'$"),
    ],
)
def test_what_is_missing_is_named_with_what_installs_it(libraries, text, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=text) as caught:
        need("a test", *libraries)
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, ValueError)
    with pytest.raises(MissingExtra, match="or do without$"):
        need("a test", *libraries, instead="do without")


def test_a_finder_that_refuses_counts_as_missing(monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(extras.importlib.util, "find_spec", refuse)
    with pytest.raises(MissingExtra, match="pandas"):
        need("a test", "pandas")
