"""Example inputs in a file of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from lowrank.files.paths import as_path
from lowrank.files.tensor_files import check_file


def check_example_file(given: Any) -> None:
    """Raise unless it is something else than a path, or that of a file of tensors.

    Only the header is read, so that a wrong path ends an export before a model is loaded.

    Raises:
        ValueError: another or a damaged file.
        OSError: there is none, or it cannot be read.
    """
    if isinstance(given, str | Path):
        path = as_path(given, "example")
        check_file(path)
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"example: {path} is no whole safetensors file: {error}") from error


def inputs_in(given: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        ValueError, OSError: as `check_example_file`.
    """
    check_example_file(given)
    path = as_path(given, "example")
    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # The second: a dtype that PyTorch has not.
        raise ValueError(f"example: the tensors of {path} cannot be read: {error}") from error
