"""Where an extra is not installed, whatever needs it says what installs it, and nothing else."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import programs
import pytest
from without_extra import USES

from lowrank.files.extras import EXTRAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# As Python calls what pip calls otherwise.
CALLED = {
    "pillow": "PIL",
    "hydra-core": "hydra",
    "scikit-learn": "sklearn",
    "pytest-xdist": "xdist",
}
# Comes with hydra; and what has an environment of its own, where extras are not.
WITH_OTHERS = {"omegaconf", "yaml", "hydra_plugins"}
# Code that is copied into folders of transformers, which runs it without this library.
COPIED = "lowrank.export.formats.hf.remote."
ELSEWHERE = {
    "experiments/benchmarks/peer_methods/llm_compressor_worker.py",
    "lowrank/export/formats/hf/remote/matrix_forms.py",
    "lowrank/export/formats/hf/remote/modeling_compressed.py",
}


# They hold classes of torchmetrics, and are imported when needed.
OF_TORCHMETRICS = tuple(
    f"lowrank.tasks.{name}" for name in ("detection_metrics", "summed_scores", "text_metrics")
)


def libraries(requirements):
    """The libraries of requirements, as they are imported."""
    names = (re.split(r"[\[<>=]", one)[0] for one in requirements)
    return {CALLED.get(name, name.replace("-", "_")) for name in names if name != "lowrank"}


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_what_needs_an_extra_that_is_missing_says_what_installs_it(extra):
    hidden = libraries(PROJECT["optional-dependencies"][extra])
    program = (str(ROOT / "tests" / "without_extra.py"), *hidden)
    done = programs.run(*program, cwd=ROOT, imported=("torch",))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, end in found["modules"].items():
        if name.startswith(COPIED):
            continue
        assert end is None or end[0] == "MissingExtra", (name, end)
        assert end is None or name.startswith(("lowrank.reporting", *OF_TORCHMETRICS))
    for name, end in found["programs"].items():
        assert end is not None and end[0] == "SystemExit", (name, end)
        assert re.search(rf"pip install 'lowrank\[.*{extra}.*\]'", end[1]), (name, end)
    assert found["uses"].keys() == hidden & EXTRAS.keys()
    for library, end in found["uses"].items():
        assert end is not None and end[0] in ("MissingExtra", "SystemExit"), (library, end)
        assert library in end[1] and f"pip install 'lowrank[{extra}]'" in end[1], end
    assert found["uses"] or extra in ("dev", "docs")


def test_every_library_of_an_extra_is_tried():
    assert USES.keys() == EXTRAS.keys()


def imported(path):
    """The libraries that a file imports, other than for types."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("place", ["lowrank", "experiments"])
def test_every_library_that_is_imported_is_required_or_in_an_extra(place):
    own = {"lowrank", "experiments"} | libraries(PROJECT["dependencies"]) | WITH_OTHERS
    known = own | EXTRAS.keys() | sys.stdlib_module_names
    unknown = {
        (str(path.relative_to(ROOT)), name)
        for path in ROOT.glob(f"{place}/**/*.py")
        for name in imported(path)
        if name not in known
    }
    assert {path for path, _ in unknown} <= ELSEWHERE
