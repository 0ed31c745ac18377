"""The cache on disk of trained weights and decoded data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lowrank.files.atomic import prove_writable, replacing
from lowrank.files.extras import need

if TYPE_CHECKING:
    from filelock import AcquireReturnProxy

CACHE_VARIABLE = "LOWRANK_CACHE"


def folder() -> Path:
    """The folder of the cache: LOWRANK_CACHE, or ~/.cache/lowrank.

    Raises:
        ValueError: it names the home of a user who does not exist.
    """
    given = os.environ.get(CACHE_VARIABLE) or "~/.cache/lowrank"
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{CACHE_VARIABLE}={given} names no folder: {error}") from error


def check(kind: str) -> None:
    """Check before the work that the folder of a kind can be written, or holds files already.

    Raises:
        ValueError: the cache folder cannot be written, and nothing is in it.
    """
    place = folder() / kind
    try:
        prove_writable(place)
    except OSError as error:
        # A read-only folder may already hold the tensors.
        if not (place.is_dir() and any(place.iterdir())):
            raise _unusable(place, error) from error


def key(config: Mapping[str, Any]) -> str:
    """The key of a `config` (JSON): 20 hex digits, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:20]


def tensors(
    kind: str, config: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors that belong to `config`: read from the cache, or made and kept there.

    If several processes need the same tensors at once, the first makes them and the others wait. A
    file is written atomically, so a killed process leaves no incomplete file under its name.

    Args:
        kind: a subfolder, such as ``models``.
        config: JSON with everything on which the content depends; it is kept in the file.

    Raises:
        ValueError: the cache folder cannot be written, or a file in it is damaged or was made for
            something else.
    """
    path = folder() / kind / f"{key(config)}.safetensors"
    if not path.exists():
        with _locked(path):
            if not path.exists():
                _write(path, make(), config)
    return _read(path, config)


def _locked(path: Path) -> AcquireReturnProxy:
    need("the cache", "filelock")
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path.with_suffix(".lock")).acquire()
    except OSError as error:
        raise _unusable(path.parent, error) from error


def _unusable(place: Path, error: OSError) -> ValueError:
    return ValueError(
        f"the cache folder {place} cannot be written ({error}); set {CACHE_VARIABLE} to a folder "
        "that can."
    )


def _write(path: Path, content: dict[str, Tensor], config: Mapping[str, Any]) -> None:
    # Copies, since safetensors refuses tensors that share memory (tied weights).
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in content.items()}
    with replacing(path) as partial:
        partial.write_bytes(save(copies, {"config": json.dumps(config, sort_keys=True)}))


def _read(path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            made_for = (file.metadata() or {}).get("config")
            content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the cached file {path} is damaged ({error}); delete it.") from error
    if made_for != json.dumps(config, sort_keys=True):
        raise ValueError(f"the cached file {path} was made for something else; delete it.")
    return content
