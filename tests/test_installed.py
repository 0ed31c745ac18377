"""The library as it is installed, in environments that hold nothing else."""

import base64
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.environment


def run(*command, **options):
    # Neither this checkout nor what is installed beside these tests may help.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=kept, **options
    )
    assert not run.returncode, run.stdout + run.stderr
    return run.stdout


def packed(path):
    """The data of a page of the explorer."""
    found = re.search('id="data">([^<]*)<', path.read_text(encoding="utf-8"))
    assert found is not None
    return zlib.decompress(base64.b64decode(found[1])).decode()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The folder of an environment's programs, with the library alone in it."""
    folder = tmp_path_factory.mktemp("environment")
    # What is built of a checkout stays in it; so a copy is built.
    run("git", "clone", "--quiet", ROOT, folder / "clone")
    run(sys.executable, "-m", "venv", folder / "venv")
    pip = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet"]
    pip += ["--constraint", ROOT / "constraints.txt"]
    run(*pip, "torch", cwd=folder)
    run(*pip, folder / "clone", cwd=folder)
    return folder / "venv" / "bin"


def test_the_core_needs_nothing_else(environment, tmp_path):
    program = ROOT / "tests" / "core_program.py"
    assert run(environment / "python", program, cwd=tmp_path).endswith("all of it\n")


def test_files_are_shown_and_exported_without_an_extra(environment, tmp_path):
    file = ROOT / "tests" / "export" / "data" / "format-3.safetensors"
    assert "format 3" in run(environment / "lowrank", "show", file, cwd=tmp_path)
    (tmp_path / "old_network.py").write_text((file.parents[1] / "old_network.py").read_text())
    words = ("export", file, "--model", "old_network:network", "--format", "dense", "--out", "out")
    assert "dense: " in run(environment / "lowrank", *words, cwd=tmp_path)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_commands_without_their_extra_say_what_installs_them(environment, tmp_path):
    assert "lowrank sweep" in run(environment / "lowrank", "--help", cwd=tmp_path)
    said = subprocess.run(
        [environment / "lowrank", "sweep"], capture_output=True, text=True, cwd=tmp_path
    )
    assert said.returncode == 1 and "pip install 'lowrank[sweep]'" in said.stderr


def test_a_sweep_and_its_report_run_in_a_folder_of_the_user(environment, tmp_path):
    clone = environment.parents[1] / "clone"
    pip = [environment / "python", "-m", "pip", "install", "--quiet"]
    run(*pip, "--constraint", ROOT / "constraints.txt", f"{clone}[sweep]", cwd=tmp_path)
    mine = "# @package _global_\ndefaults: [svd]\n"
    for group in ("method", "experiment"):
        (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(mine)
    sweep = "# @package _global_\ndefaults: [override /measure: quick]\nsweep: mine\n"
    sweep += 'hydra: {sweeper: {params: {method: mine, method.rank: "4,8"}}}\n'
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(sweep)
    said = run(environment / "lowrank", "sweep", "experiment=mine", "threads=1", cwd=tmp_path)
    assert "2 measured here" in said
    assert len(list((tmp_path / "results" / "runs" / "mine").glob("*.json"))) == 2
    run(environment / "lowrank", "report", "experiment=mine", "html=true", cwd=tmp_path)
    figures = tmp_path / "results" / "runs" / "mine" / "figures"
    assert list(figures.glob("*-summary.md"))
    assert "method=mine" in packed(figures / "explorer.html")
