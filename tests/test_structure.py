"""The layout of the library: imports between rooms, sizes of files, names of classes."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From what knows nothing of the others to what knows all.
ROOMS = [
    "numerics",
    "files",
    "metrics",
    "statistics",
    "factorizations",
    "norms",
    "approximation",
    "decomposers",
    "model",
    "measure",
    "reading",
    "tasks",
    "calibration",
    "execution",
    "allocation",
    "compression",
    "export",
    "recovery",
    "records",
    "point",
    "inspection",
    "reporting",
]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.glob("lowrank/**/*.py"))
}
# The front door, which imports nothing before it is used.
INSIDE = [name for name in MODULES if name != "lowrank"]


def imported(name: str) -> set[str]:
    """The modules of the library that a module imports, at any depth of it and for types too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lowrank"):
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {one if one in MODULES else node.module for one in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("lowrank")}
    return found - {name}


def room(name: str) -> str:
    return name.split(".")[1]


def test_every_module_is_in_a_room():
    assert {room(name) for name in INSIDE} == set(ROOMS)


def test_the_readme_lists_the_rooms_in_their_order():
    listed = re.findall(r"^  (\w+)/ ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert listed == ROOMS


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_from_those_below_it_only(name):
    above = ROOMS[ROOMS.index(name) + 1 :]
    upward = [
        (module, other)
        for module in INSIDE
        if room(module) == name
        for other in sorted(imported(module))
        if other == "lowrank" or room(other) in above
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    left = {name: imported(name) - {"lowrank"} for name in INSIDE}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left


def test_the_room_of_decomposers_holds_one_method_in_each_file():
    """Beside them the interface, and what the methods that prune have in common."""
    decomposers = importlib.import_module("lowrank.decomposers")
    homes = [value.__module__ for value in vars(decomposers).values() if inspect.isclass(value)]
    files = [name for name in MODULES if name.startswith("lowrank.decomposers.")]
    assert sorted([*homes, "lowrank.decomposers.pruning"]) == files


def test_each_class_name_has_one_meaning():
    homes: dict[str, list[str]] = {}
    places = ("lowrank", "experiments", "manual")
    for path in sorted(path for place in places for path in ROOT.glob(f"{place}/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert len(homes) > 200
    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}


@pytest.mark.parametrize("place", ["lowrank", "experiments", "manual"])
def test_no_file_is_above_300_lines(place):
    long = {
        str(path.relative_to(ROOT)): count
        for path in ROOT.glob(f"{place}/**/*.py")
        if (count := len(path.read_text().splitlines())) > 300
    }
    assert not long
