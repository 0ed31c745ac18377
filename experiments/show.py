"""The contents of a safetensors file on the screen: `lowrank show FILE`."""

from __future__ import annotations

import argparse
import sys

from experiments.composed import on_one_line


def main() -> None:
    """The program of the command line; an error is one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="lowrank show",
        description="What a file holds, layer by layer: form, shape, bytes, bits per weight. The "
        "numbers are not read.",
    )
    parser.add_argument("file", help="of lowrank.save, or any safetensors file")
    file = parser.parse_args().file
    from lowrank.export.file_contents import file_contents

    try:
        print(file_contents(file).describe())
    except (ValueError, OSError) as error:
        sys.exit(f"show: {on_one_line(error)}")


if __name__ == "__main__":
    main()
