"""Wrapping and shortening of text to a width in a figure, by the widths of its letters."""

from __future__ import annotations

import functools

INCH = 72  # points of print


def wrapped(text: str, inches: float, points: float = 8) -> str:
    """`text` in lines of at most `inches`, broken between words where that is possible.

    Args:
        text: lines of its own stay apart.
        points: size of the print.
    """
    lines = [_broken(line, inches * INCH, points) for line in text.split("\n")]
    return "\n".join(part for parts in lines for part in parts)


def shortened(text: str, inches: float, points: float = 8) -> str:
    """`text` in at most `inches`, with its middle left out where it is longer."""
    kept = len(text)
    while kept > 2 and width(_without_middle(text, kept), points) > inches * INCH:
        kept -= 1
    return _without_middle(text, kept)


def ending(name: str, inches: float, points: float = 8) -> str:
    """The dotted name of a layer in at most `inches`: without its first parts where it is longer,
    since the last ones tell layers apart."""
    short = name
    while "." in name and width(short, points) > inches * INCH:
        name = name.partition(".")[2]
        short = f"…{name}"
    return shortened(short, inches, points)


def labelled(name: str) -> str:
    """A name as a label; matplotlib leaves those out of legends that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


@functools.lru_cache(maxsize=4096)
def width(text: str, points: float) -> float:
    """Points of print that a line takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(text, FontProperties(size=points), False)[0]


def _broken(line: str, most: float, points: float) -> list[str]:
    lines = [""]
    for word in line.split():
        longer = f"{lines[-1]} {word}".strip()
        if width(longer, points) <= most:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:  # Too long for any line, it may be.
            if width(lines[-1] + letter, points) > most:
                lines.append("")
            lines[-1] += letter
    return [one for one in lines if one]


def _without_middle(text: str, kept: int) -> str:
    if kept >= len(text):
        return text
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
