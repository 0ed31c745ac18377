"""The pins of constraints.txt can be installed on the oldest Python that the project takes."""

import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
LEAST = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
PINS = [
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line and not line.startswith("#")
]


def test_every_pin_takes_the_first_python_that_the_project_takes():
    """Of a pin for a later Python, pip finds none, and tries all other versions of the rest."""
    first = LEAST.removeprefix(">=") + ".0"
    needs = {}
    for name, _ in PINS:
        try:
            said = metadata(name)
        except PackageNotFoundError:  # Of an extra that is not installed here.
            continue
        needs[name] = said["Requires-Python"] if "Requires-Python" in said else ""
    assert len(needs) > 100
    assert not [name for name, needed in needs.items() if first not in SpecifierSet(needed)]
