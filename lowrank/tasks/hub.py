"""The source of datasets and published weights: a local mirror of the hub, or the hub itself.

LOWRANK_HUB names a mirror: a folder with ``datasets/<organisation>/<name>`` and
``models/<organisation>/<name>``, each with the files that the Hugging Face hub has under that name.
If it is set, nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import re
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from torch import Tensor

from lowrank.files.atomic import replacing
from lowrank.tasks import cache

if TYPE_CHECKING:
    from datasets import Dataset

HUB_VARIABLE = "LOWRANK_HUB"
# The folder of weights in the cache.
DOWNLOADS = "downloads"
WEIGHTS_FILE = "model.safetensors"
HINT = f"check its name and the network, or set {HUB_VARIABLE} to a mirror"


def mirror() -> Path | None:
    """The folder in LOWRANK_HUB, or None if the hub itself is used.

    Raises:
        ValueError: LOWRANK_HUB names no folder.
    """
    value = os.environ.get(HUB_VARIABLE)
    if not value:
        return None
    if not Path(value).is_dir():
        raise ValueError(f"{HUB_VARIABLE}={value} is no folder; set it to a mirror, or unset it.")
    return Path(value)


def model_path(name: str) -> str:
    """The place of a model: its folder, here or in the mirror, or its name on the hub.

    Raises:
        ValueError: there is a mirror, and it has no such model.
    """
    root = mirror()
    if Path(name).is_dir() or root is None:
        return name
    return str(_mirrored(root, "models", name))


def model_folder(name: str, revision: str | None) -> Path:
    """The folder of a model with its safetensors files, which are downloaded from the hub if need
    be.

    Raises:
        ValueError: there is no such model.
    """
    path = Path(model_path(name))
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns="*.safetensors"))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"no files of {name!r} on the Hugging Face hub ({HINT}): {error}"
        ) from error


def fingerprint(dataset: str) -> str:
    """The names, sizes and times of a mirrored dataset's files, which show a change; "" on the hub.

    Datasets on the hub are identified by name and revision alone, without a request to the network.
    """
    root = mirror()
    if root is None:
        return ""
    path = _mirrored(root, "datasets", dataset)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    stats = [(str(file.relative_to(path)), file.stat()) for file in files]
    return cache.key({name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats})


def load_split(dataset: str, split: str, config: str | None, revision: str | None) -> Dataset:
    """One split of a dataset, by its hub name, through the `datasets` library.

    Raises:
        ValueError: no such dataset, configuration or split.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    root = mirror()
    path = dataset if root is None else str(_mirrored(root, "datasets", dataset))
    try:
        return load_dataset(path, name=config, split=split, revision=revision)  # type: ignore
    # A missing dataset and a dead network are OSErrors, a script in the dataset a RuntimeError.
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:
        cause = "" if error.__cause__ is None else f" ({error.__cause__})"
        raise ValueError(
            f"split {split!r} of dataset {dataset!r} (configuration {config!r}) cannot be loaded "
            f"from {root or f'the Hugging Face hub ({HINT})'}: {error}{cause}"
        ) from error


def check_weights(repository: str, url: str | None) -> None:
    """Raise ValueError if these weights cannot be had: the mirror lacks them, `url` has no hash, or
    the cache cannot keep a download. Reads no weights and makes no request. See `load_weights`.
    """
    root = mirror()
    if root is not None:
        _weights_file(root, repository)
    elif url is not None:
        _named_by_hash(url)
        cache.check(DOWNLOADS)


def load_weights(repository: str, url: str | None) -> dict[str, Tensor]:
    """A published state dict: from the mirror if there is one, else from `url`, else from the hub.

    Args:
        repository: the model's name, ``organisation/name``, with a file ``model.safetensors``.
        url: a PyTorch checkpoint whose file name ends in the first digits of its SHA-256, as in
            ``resnet20-12fca82f.th``. It is kept in the cache, checked against that hash, and read
            as weights only, so it can run no code. The weights may be under the key ``state_dict``;
            the prefix ``module.`` of `nn.DataParallel` is removed.

    Raises:
        ValueError: no such weights, a name without a hash, or a file that does not match it.
    """
    root = mirror()
    if root is not None:
        return _read_safetensors(_weights_file(root, repository))
    if url is not None:
        return _read_pickled(_download(url), url)
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(repository, WEIGHTS_FILE)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{WEIGHTS_FILE} of model {repository!r} cannot be loaded from the Hugging Face hub "
            f"({HINT}): {error}"
        ) from error
    return _read_safetensors(Path(file))


def _weights_file(root: Path, repository: str) -> Path:
    file = _mirrored(root, "models", repository) / WEIGHTS_FILE
    if not file.is_file():
        raise ValueError(f"the mirror has no file {file}")
    return file


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{file} is no whole safetensors file of weights: {error}") from error


def _named_by_hash(url: str) -> tuple[str, str]:
    """The name of the file at an address, and the digits of its hash in that name."""
    check_address(url)
    found = re.search(r"/([^/]*-([0-9a-f]{8,64})\.[^/]*)$", url)
    if found is None:
        raise ValueError(
            f"{url} must end in -<first 8 or more digits of the file's SHA-256>.<suffix>, so that "
            "the download can be checked"
        )
    return found[1], found[2]


def check_address(url: str) -> None:
    """Raise ValueError unless a request can be made of this address."""
    try:
        parts = urlsplit(url)
        # Read for their errors, which urlsplit itself does not raise.
        is_whole = bool(parts.scheme) and (bool(parts.hostname) or parts.scheme == "file")
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no address to fetch weights from: {error}") from error
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(
            f"{url!r} is no address to fetch weights from: blanks, control characters and letters "
            "beyond ASCII must be written as %20 and the like"
        )
    if not is_whole:
        raise ValueError(
            f"{url!r} is no address to fetch weights from: it must begin with https://<host>/"
        )


def _download(url: str) -> Path:
    """The file at an address, kept in the cache and checked against the hash in its name."""
    name, digits = _named_by_hash(url)
    folder = cache.folder() / DOWNLOADS
    file = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            _fetch(url, file, digits)
        with open(file, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, HTTPException, UnicodeError) as error:
        raise ValueError(f"no weights from {url} ({HINT}): {error}") from error
    if not digest.startswith(digits):
        raise ValueError(f"{file} is no longer what was downloaded from {url}: delete it")
    return file


def _fetch(url: str, file: Path, digits: str) -> None:
    """Download a file; it appears only when it is whole and its hash begins with these digits."""
    digest = hashlib.sha256()
    request = Request(url, headers={"User-Agent": "lowrank"})
    with replacing(file) as partial, urlopen(request) as answer, open(partial, "wb") as out:
        while part := answer.read(1 << 20):
            digest.update(part)
            out.write(part)
        out.flush()
        if not digest.hexdigest().startswith(digits):
            raise OSError(f"the file there has the SHA-256 {digest.hexdigest()}, not {digits}…")


def _read_pickled(file: Path, url: str) -> dict[str, Tensor]:
    """The tensors in a PyTorch checkpoint; nothing else in it is read."""
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Not `from error`, whose text advises to load without this protection.
        raise ValueError(
            f"no weights from {url}: it holds more than tensors, or is damaged "
            f"({type(error).__name__}). Nothing but tensors is ever read of such a file, since "
            "reading more could run any code"
        ) from None
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else {}
    is_state = isinstance(state, dict) and len(state) > 0
    if not is_state or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise ValueError(f"no weights from {url}: it is no mapping from names to tensors")
    found = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if len(found) < len(state):
        twice = sorted(name for name in found if f"module.{name}" in state and name in state)
        raise ValueError(
            f"no weights from {url}: it has {twice[:5]} twice, with and without 'module.'"
        )
    return found


def _mirrored(root: Path, kind: str, name: str) -> Path:
    path = root / kind / name
    if not path.is_dir():
        known = sorted(str(p.relative_to(root / kind)) for p in (root / kind).glob("*/*"))
        others = f"it has {', '.join(known)}" if known else f"it has no {kind} at all"
        raise ValueError(f"the mirror {root} ({HUB_VARIABLE}) has no {kind}/{name}; {others}")
    return path
