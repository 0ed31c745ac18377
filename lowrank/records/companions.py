"""Files that lie beside records, each named by the record of its point: models, what is exported of
them, and outcomes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Companion:
    """A kind of files beside records, or of folders.

    Attributes:
        field: of a record, with the name of its file.
        pattern: of such names; its group `key` is the key of the point.
    """

    field: str
    pattern: re.Pattern[str]

    def key_of(self, name: str) -> str | None:
        """The key of the point to which a file of that name belongs; None if it is none of these
        files."""
        own = self.pattern.fullmatch(name)
        return own and own["key"]

    def named(self, record: Mapping[str, Any] | None) -> str | None:
        """The file that a record names; None if it names none of its own point."""
        name = None if record is None else record.get(self.field)
        if record is None or not isinstance(name, str):
            return None
        return name if self.key_of(name) and self.key_of(name) == record.get("key") else None

    def is_kept(self, record: Mapping[str, Any], folder: Path) -> bool:
        """Whether a record names its file and that exists."""
        name = self.named(record)
        return name is not None and (folder / name).exists()


MODEL = Companion("model_file", re.compile(r"(?P<key>[0-9a-f]{16})-[0-9a-f]{16}\.safetensors"))
OUTCOMES = Companion("outcomes_file", re.compile(r"(?P<key>[0-9a-f]{16})\.outcomes\.safetensors"))
EXPORTED = Companion(
    "exported_folder", re.compile(r"(?P<key>[0-9a-f]{16})-[0-9a-f]{16}\.(?!safetensors)[\w-]+")
)
COMPANIONS = (MODEL, EXPORTED, OUTCOMES)
# What a record has of its model in the format of another tool: the name of the folder, that of the
# format, the bytes of all numbers in it, and how many compressed layers it has as dense matrices.
OF_EXPORT = (EXPORTED.field, "exported_format", "exported_bytes", "exported_multiplied_out")


def model_name(key: str, digest: str) -> str:
    """The name of a model file, from the key of its point and the digest of its content
    (hexadecimal).
    """
    return f"{key}-{digest[:16]}.safetensors"


def exported_name(model: str, format: str) -> str:
    """The name of the folder of a model in another format, from that of its file."""
    return f"{model.removesuffix('.safetensors')}.{format}"


def remove(path: Path) -> None:
    """Remove a file or folder beside a record; it may be gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def outcomes_name(key: str) -> str:
    """The name of the file of a point's outcomes, from its key."""
    return f"{key}.outcomes.safetensors"


def training_name(key: str) -> str:
    """The name of the folder with the states of a point's trainings while it is measured."""
    return f"{key}.training"
