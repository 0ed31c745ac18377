"""The command `lowrank`: it hands over to the programs of this folder."""

from __future__ import annotations

import importlib
import os
import sys

# Name of a program → its module, and its description.
PROGRAMS = {
    "sweep": ("experiments.sweep", "measures points, each a model compressed by one method"),
    "report": ("experiments.report", "draws figures and tables of what was measured"),
    "inspect": ("experiments.inspect", "draws the inside of a saved compressed model"),
    "show": ("experiments.show", "says what a file holds, without loading it"),
    "export": ("experiments.export", "writes a saved model in the format of another tool"),
    "compress": ("experiments.compress", "compresses a large checkpoint from disk to disk"),
    "reproduce": ("experiments.reproduce", "sets published tables beside ours"),
}


def main() -> None:
    """Run the program that the command line names.

    Raises:
        SystemExit: there is no such program, or what it raises itself.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return
    if name not in PROGRAMS:
        sys.exit(f"lowrank: there is no command {name!r}: there are {', '.join(PROGRAMS)}")
    module, _ = PROGRAMS[name]
    # What a YAML of the user's names may lie beside it, as with `python -m`.
    sys.path.append(os.getcwd())
    sys.argv = [f"lowrank {name}", *arguments]
    importlib.import_module(module).main()


def _help() -> str:
    lines = [f"  lowrank {name:10}{what}" for name, (_, what) in PROGRAMS.items()]
    more = " and ".join(f"lowrank {name} --help" for name in PROGRAMS)
    return "\n".join(
        ["What each way of shrinking a model costs, and what it saves.", *lines, f"More: {more}"]
    )


if __name__ == "__main__":
    main()
