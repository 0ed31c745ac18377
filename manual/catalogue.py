"""The methods of conf/method, with their classes, norms and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

# Hydra looks for plugins once in a process, and this module says where ours is.
import experiments.sweep  # noqa: F401
from experiments.parts import make
from lowrank.allocation import Allocation
from lowrank.decomposers import Decomposer

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
# The parts of a docstring with a name of their own, as they begin a line.
_PARTS = re.compile(r"^(Args|Attributes|Raises|Source):[ \n]", flags=re.MULTILINE)


@dataclass(frozen=True)
class MethodEntry:
    """A choice of conf/method.

    Attributes:
        name: of its YAML.
        said: the comment that the YAML begins with.
        examples: what its indented lines give the command of sweeps; one on the digits if none.
        config: its fields, `_target_` among them.
        made: what these fields make.
        norm: the choice of conf/norm that it brings along.
        needs_data: whether it reads calibration data, with that norm.
    """

    name: str
    said: str
    examples: tuple[str, ...]
    config: dict[str, Any]
    made: Decomposer | Allocation
    norm: str
    needs_data: bool


def methods() -> list[MethodEntry]:
    """All choices of conf/method, by name."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return [_method(path) for path in sorted((CONF / "method").glob("*.yaml"))]


def _method(path: Path) -> MethodEntry:
    config = compose("config", [f"method={path.stem}"], return_hydra_config=True)
    norm = config.hydra.runtime.choices.norm
    # The seed that some methods take is the whole config's.
    container: Any = OmegaConf.to_container(config.method, resolve=True)
    made = make(container)
    reads = isinstance(made, Allocation) and made.needs_data
    return MethodEntry(
        name=path.stem,
        said=comment(path)[0],
        examples=comment(path)[1] or (f"task=digits method={path.stem}",),
        config=container,
        made=made,
        norm=norm,
        needs_data=reads or make(OmegaConf.to_container(config.norm)).needs_data,  # type: ignore
    )


def comment(path: Path) -> tuple[str, tuple[str, ...]]:
    """What a YAML says of itself in the comment that it begins with: text, and indented lines.

    Hydra's own line is left out.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    said = [line[1:].removeprefix(" ") for line in takewhile(_is_comment, lines)]
    said = [line for line in said if not line.startswith("@")]
    indented = tuple(line.strip() for line in said if line.startswith(" "))
    return " ".join(line for line in said if not line.startswith(" ")), indented


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def parts(cls: type) -> dict[str, str]:
    """A docstring by its parts: "" what it says first, then Args, Raises, Source."""
    split = _PARTS.split(inspect.getdoc(cls) or "")
    found = {"": split[0].strip()}
    for name, text in zip(split[1::2], split[2::2], strict=True):
        found[name] = textwrap.dedent(text).strip()
    return found
