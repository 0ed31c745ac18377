"""The folder that a checkpoint is compressed into: whether it may be, and what goes with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lowrank.export.streamed.request import Request
from lowrank.files.atomic import check_empty, clean, replacing
from lowrank.files.fields import Fields, parse
from lowrank.files.tensor_folders import INDEX
from lowrank.reading.shards import INDEX as SHARDS

# What was asked for, in a folder that is not finished or is.
REQUEST = "lowrank.request.json"
# Files that go with the weights, such as a tokenizer's.
BESIDE = (".json", ".txt", ".model", ".jinja", ".tiktoken")


def prepare(request: Request) -> None:
    """Make the folder, or see that what is in it is the beginning of the same.

    Raises:
        ValueError: it holds something else, or is the source itself.
        OSError: it cannot be written.
    """
    target, source = request.target, request.source
    if target.resolve() == source.resolve():
        raise ValueError(f"{target} is the source itself: name another folder")
    described = request.described
    if (target / REQUEST).is_file():
        _check_same(target, described)
        clean(target)  # What a killed process left.
    else:
        check_empty(target)
        target.mkdir(parents=True, exist_ok=True)
        with replacing(target / REQUEST) as file:
            file.write_text(json.dumps(described, indent=1) + "\n", "utf-8")
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in BESIDE and path.name not in (SHARDS, INDEX, REQUEST):
            with replacing(target / path.name) as file:
                shutil.copyfile(path, file)


def _check_same(target: Path, described: dict[str, Any]) -> None:
    path = target / REQUEST
    known = Fields(parse(path.read_bytes(), str(path)), str(path)).value
    apart = sorted(n for n in {*known, *described} if known.get(n) != described.get(n))
    if apart:
        first = apart[0]
        raise ValueError(
            f"{target} holds another compression, or its beginning: it differs in "
            f"{', '.join(apart)} ({first}: {known.get(first)!s:.200} there, and "
            f"{described.get(first)!s:.200} here). Remove it, or name another folder"
        )
