"""File names from arbitrary names, such as those of models on the hub."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

# The most letters of a file name: suffixes are added to it, and file systems allow 255 bytes.
LONGEST = 100
PLAIN = "._-+=@, ()"


def stems(names: Sequence[Sequence[str]]) -> list[str]:
    """For each name of several words the start of a file's name, no two alike.

    Words are joined by ``-``, and ``/``, as in a model's name on the hub, is written as ``--``.
    Where more than that had to change to be a plain name in one folder, or where two would be the
    same, the end tells them apart.
    """
    plain = ["-".join(words).replace("/", "--") for words in names]
    safe = [_safe(name) for name in plain]
    # Some file systems tell no capitals from small letters.
    times = Counter(name.casefold() for name in safe)
    return [
        name if name == own and times[name.casefold()] == 1 else f"{own}-{_mark(words)}"
        for name, own, words in zip(plain, safe, names, strict=True)
    ]


def _safe(name: str) -> str:
    letters = [letter if letter.isalnum() or letter in PLAIN else "_" for letter in name]
    text = "".join(letters)
    # Neither hidden nor the folder above.
    text = f"_{text}" if text[:1] in (".", "-", "") else text
    return text.encode()[:LONGEST].decode(errors="ignore")


def _mark(words: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()[:8]
