"""Files as others may have damaged or forged them: small edits of valid ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from torch import Tensor

from lowrank.export import checkpoint
from lowrank.files import tensor_files

# Stands for a list nested deeper than Python can follow.
DEEP = "@deep@"
# What may stand in the place of anything.
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "4", "float32", "é\u0000", [], {}, [[]], {"type": "Dense"}),
    *(0, 1, -1, 2, 3, 255, 2**31, 2**40, 10**9, 10**30, -(10**9), 0.5, -0.5, 1e300, 1e-300),
    *(float("nan"), float("inf"), [1, 2], [10**9, 10**9], "Product", "channel", DEEP),
)


def text_of(value: Any) -> str:
    """As JSON, which may be deeper than `json.dumps` writes."""
    return json.dumps(value).replace(json.dumps(DEEP), 9000 * "[" + 9000 * "]")


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file and the bytes of its tensors."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def join(header: Any, body: bytes) -> bytes:
    """A safetensors file."""
    text = text_of(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def edited(path: Path, change: Any) -> Path:
    """Apply `change` in place to the JSON that a file of this library has in its header."""
    header, body = split(path.read_bytes())
    own = json.loads(header["__metadata__"]["lowrank"])
    replaced = change(own)
    header["__metadata__"]["lowrank"] = text_of(own if replaced is None else replaced)
    path.write_bytes(join(header, body))
    return path


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a JSON value."""
    if not isinstance(value, dict | list):
        return []
    found = []
    for name, one in value.items() if isinstance(value, dict) else enumerate(value):
        found += [(*path, name), *places(one, (*path, name))]
    return found


def mutated(value: Any, draw: random.Random) -> Any:
    """A JSON value with one place changed, removed, renamed, doubled or nested."""
    value = json.loads(json.dumps(value))
    *parents, last = draw.choice(places(value))
    holder = value
    for step in parents:
        holder = holder[step]
    what = draw.choice(("value", "value", "value", "number", "remove", "rename", "nest", "swap"))
    if what == "value":
        holder[last] = draw.choice(VALUES)
    elif what == "number" and isinstance(holder[last], int | float):
        holder[last] = holder[last] + draw.choice((-1, 1, 7, 1000, 0.5))
    elif what == "remove":
        del holder[last]
    elif what == "rename" and isinstance(holder, dict):
        holder[draw.choice(("type", "other", f"{last}x"))] = holder.pop(last)
    elif what == "nest":
        for _ in range(draw.choice((1, 3, 40, 70))):
            holder[last] = [holder[last]] if draw.random() < 0.5 else {"term": holder[last]}
    else:
        other = draw.choice(places(value))
        target = value
        for step in other[:-1]:
            target = target[step]
        holder[last] = json.loads(json.dumps(target[other[-1]]))
    return value


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes with some flipped, cut off, added, moved or overwritten."""
    what = draw.choice(("flip", "flip", "cut", "add", "zero", "move"))
    at = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(len(data), 600))
    if what == "flip":
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    if what == "cut":
        return data[:at]
    if what == "add":
        return data + bytes(draw.randrange(1, 20))
    if what == "zero":
        return data[:at] + bytes(len(data[at : at + 16])) + data[at + 16 :]
    return data[:at] + data[at + 1 :] + data[at : at + 1]


def forged(path: Path, tensors: dict[str, Tensor], **header: Any) -> Path:
    """A file of a model that nobody saved, whole in all that `tensor_files.write` looks after."""
    empty = {"layers": [], "same": {}, "views": {}, "frozen": [], "extra": {}}
    tensor_files.write(path, tensors, "model", {"format": checkpoint.FORMAT, **empty, **header})
    return path
