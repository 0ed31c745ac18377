"""Where datasets and published weights come from: a local mirror of the hub, or the hub itself.

LOWRANK_HUB names a mirror: a folder with ``datasets/<organisation>/<name>`` and
``models/<organisation>/<name>``, each with the files that the Hugging Face hub has under that name.
Where it is set, nothing is fetched from elsewhere.
"""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowrank.tasks import cache

if TYPE_CHECKING:
    from datasets import Dataset

HUB_VARIABLE = "LOWRANK_HUB"
WEIGHTS_FILE = "model.safetensors"
HINT = f"check its name and the network, or set {HUB_VARIABLE} to a mirror"


def mirror() -> Path | None:
    """The folder in LOWRANK_HUB, or None where the hub itself is used.

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
    """Where a model is: its folder, here or in the mirror, or its name on the hub.

    Raises:
        ValueError: there is a mirror, and it has no such model.
    """
    root = mirror()
    if Path(name).is_dir() or root is None:
        return name
    return str(_mirrored(root, "models", name))


def fingerprint(dataset: str) -> str:
    """What changes when a mirrored dataset does: its files' names, sizes and times; "" on the hub.

    Data from the hub are told apart by name and revision alone, without asking the network.
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
    """Raise ValueError if it is known without reading or asking the network that these weights are
    not there: the mirror lacks them, or `url` has no hash. See `load_weights`."""
    root = mirror()
    if root is not None:
        _weights_file(root, repository)
    elif url is not None:
        _check_hash(url)


def load_weights(repository: str, url: str | None) -> dict[str, Tensor]:
    """A published state dict: from the mirror if there is one, else from `url`, else from the hub.

    Args:
        repository: the model's name, ``organisation/name``, with a file ``model.safetensors``.
        url: a PyTorch checkpoint whose file name ends in the first digits of its SHA-256, as in
            ``resnet20-12fca82f.th``. It is kept in the cache, checked against that hash, and read
            as weights only: it can run no code. The weights may lie under ``state_dict``, and the
            prefix ``module.`` of `nn.DataParallel` is removed.

    Raises:
        ValueError: no such weights, a name without a hash, or a file that does not match it.
    """
    from safetensors.torch import load_file

    root = mirror()
    if root is not None:
        return load_file(_weights_file(root, repository))
    if url is not None:
        return _download(url)
    from huggingface_hub import hf_hub_download

    try:
        return load_file(hf_hub_download(repository, WEIGHTS_FILE))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{WEIGHTS_FILE} of model {repository!r} cannot be loaded from the Hugging Face hub "
            f"({HINT}): {error}"
        ) from error


def _weights_file(root: Path, repository: str) -> Path:
    file = _mirrored(root, "models", repository) / WEIGHTS_FILE
    if not file.is_file():
        raise ValueError(f"the mirror has no file {file}")
    return file


def _check_hash(url: str) -> None:
    if re.search(r"-[0-9a-f]{8,64}\.[^/]*$", url) is None:
        raise ValueError(
            f"{url} must end in -<first 8 or more digits of the file's SHA-256>.<suffix>, so that "
            "the download can be checked"
        )


def _download(url: str) -> dict[str, Tensor]:
    _check_hash(url)
    try:
        checkpoint = torch.hub.load_state_dict_from_url(
            url,
            model_dir=str(cache.folder() / "downloads"),
            map_location="cpu",
            progress=False,
            check_hash=True,
            weights_only=True,
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(f"no weights from {url} ({HINT}): {error}") from error
    except pickle.UnpicklingError as error:
        # Its text advises to load without this protection.
        raise ValueError(f"no weights from {url}: it holds more than tensors") from error
    state = checkpoint.get("state_dict", checkpoint)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _mirrored(root: Path, kind: str, name: str) -> Path:
    path = root / kind / name
    if not path.is_dir():
        known = sorted(str(p.relative_to(root / kind)) for p in (root / kind).glob("*/*"))
        raise ValueError(
            f"the mirror {root} ({HUB_VARIABLE}) has no {kind}/{name}; it has {', '.join(known)}"
        )
    return path
