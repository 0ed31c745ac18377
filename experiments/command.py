"""The command `lowrank`: it hands over to the programs of this folder."""

from __future__ import annotations

import importlib
import os
import sys

from lowrank.files.extras import MissingExtra, need

# Name of a program → its module, the libraries that it needs, and its description.
PROGRAMS = {
    "sweep": (
        "experiments.sweep",
        ("hydra", "joblib", "threadpoolctl"),
        "measures points, each a model compressed by one method",
    ),
    "report": (
        "experiments.report",
        ("hydra", "pandas", "matplotlib"),
        "draws figures and tables of what was measured",
    ),
}


def main() -> None:
    """Run the program that the command line names.

    Raises:
        SystemExit: there is no such program, or a library that it needs is not installed.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return
    if name not in PROGRAMS:
        sys.exit(f"lowrank: there is no command {name!r}: there are {', '.join(PROGRAMS)}")
    module, libraries, _ = PROGRAMS[name]
    try:
        need(f"lowrank {name}", *libraries)
    except MissingExtra as error:
        sys.exit(f"{error}")
    # What a YAML of the user's names may lie beside it, as with `python -m`.
    sys.path.append(os.getcwd())
    sys.argv = [f"lowrank {name}", *arguments]
    importlib.import_module(module).main()


def _help() -> str:
    lines = [f"  lowrank {name:8}{what}" for name, (_, _, what) in PROGRAMS.items()]
    more = " and ".join(f"lowrank {name} --help" for name in PROGRAMS)
    return "\n".join(
        ["What each way of shrinking a model costs, and what it saves.", *lines, f"More: {more}"]
    )


if __name__ == "__main__":
    main()
