"""The pages of the API: every public name of a room, from its docstring."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import lowrank
from manual.method_pages import rst


def rooms() -> dict[str, ModuleType]:
    """The packages of the library that export names, by their names."""
    found = pkgutil.walk_packages(lowrank.__path__, "lowrank.")
    packages = {one.name: importlib.import_module(one.name) for one in found if one.ispkg}
    return {name: package for name, package in packages.items() if public(package)}


def public(package: ModuleType) -> list[str]:
    """The classes and functions that a package defines and exports, each of them once."""
    return sorted(
        name
        for name, value in vars(package).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith(f"{package.__name__}.")
    )


def page(package: ModuleType) -> str:
    """The page of a package in Markdown."""
    summary = (inspect.getdoc(package) or "").replace("\n", " ")
    names = [_directive(package, name) for name in public(package)]
    return "\n\n".join([f"# {package.__name__}", summary, *names]) + "\n"


def front_door(exported: dict[str, ModuleType]) -> str:
    """The page of what `import lowrank` itself gives, methods aside.

    What a room exports too is described there.
    """
    own, elsewhere = [], []
    for name, place in sorted(lowrank.PLACES.items()):
        if place in exported:
            elsewhere.append(f"- {{py:obj}}`{name} <{place}.{name}>`")
        else:
            own.append(_directive(lowrank, name))
    texts = ["# lowrank", rst(inspect.getdoc(lowrank) or ""), *own]
    texts += ["Also, beside all decomposers and allocations:", "\n".join(elsewhere)]
    return "\n\n".join(texts) + "\n"


def _directive(package: ModuleType, name: str) -> str:
    kind = "class" if inspect.isclass(getattr(package, name)) else "function"
    return rst(f".. auto{kind}:: {package.__name__}.{name}")


def write(folder: Path) -> list[str]:
    """Write the pages into a folder; their names, in order."""
    folder.mkdir(parents=True)
    exported = rooms()
    pages = {"lowrank": front_door(exported)}
    pages |= {name: page(package) for name, package in exported.items()}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return list(pages)
