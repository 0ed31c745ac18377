"""The pages of the API: every public name of a room, from its docstring.

Of the modules of `MODULES` too, which are imported by name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import lowrank
from manual.method_pages import rst

# Modules that are imported by name, with what their rooms do not export; of a room, all of its own.
MODULES = (
    *("lowrank.allocation.allocation", "lowrank.decomposers.decomposer"),
    *("lowrank.decomposers.sparse_factors", "lowrank.model.batch", "lowrank.model.factorized"),
    *("lowrank.records.columns", "lowrank.records.outcomes", "lowrank.records.store"),
    *("lowrank.reporting.compare", "lowrank.reporting.curves", "lowrank.reporting.norm_table"),
    *("lowrank.reporting.table", "lowrank.reporting.tables", "lowrank.statistics"),
)


def rooms() -> dict[str, ModuleType]:
    """The packages of the library that export names, or have a module of `MODULES`, by name."""
    found = pkgutil.walk_packages(lowrank.__path__, "lowrank.")
    packages = {one.name: importlib.import_module(one.name) for one in found if one.ispkg}
    return {name: one for name, one in packages.items() if public(one) or modules(one)}


def public(package: ModuleType) -> list[str]:
    """The classes and functions that a package defines and exports, each of them once."""
    return _names(package, lambda place: place.startswith(f"{package.__name__}."))


def modules(package: ModuleType) -> dict[str, ModuleType]:
    """The modules of a package that are imported by name, by their names."""
    own = [f"{package.__name__}.{one.name}" for one in pkgutil.iter_modules(package.__path__)]
    is_whole = package.__name__ in MODULES
    return {name: importlib.import_module(name) for name in own if is_whole or name in MODULES}


def _names(module: ModuleType, is_own: Callable[[str], bool]) -> list[str]:
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and is_own(value.__module__)
    )


def page(package: ModuleType) -> str:
    """The page of a package in Markdown."""
    exported = public(package)
    texts = [f"# {package.__name__}", _summary(package)]
    texts += [_directive(package, name) for name in exported]
    for place, module in modules(package).items():
        own = _names(module, place.__eq__)
        texts += [f"## {place}", _summary(module)]
        texts += [_directive(module, name) for name in own if name not in exported]
    return "\n\n".join(texts) + "\n"


def _summary(module: ModuleType) -> str:
    return rst(inspect.getdoc(module) or "")


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


def _directive(module: ModuleType, name: str) -> str:
    kind = "class" if inspect.isclass(getattr(module, name)) else "function"
    return rst(f".. auto{kind}:: {module.__name__}.{name}")


def write(folder: Path) -> list[str]:
    """Write the pages into a folder; their names, in order."""
    folder.mkdir(parents=True)
    exported = rooms()
    pages = {"lowrank": front_door(exported)}
    pages |= {name: page(package) for name, package in exported.items()}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return list(pages)
