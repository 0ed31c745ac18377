"""Statistics in several files of a folder, of which one at a time is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lowrank.calibration.statistics_file import Layers, described_statistics, load_statistics
from lowrank.model.contents import names_of

SUFFIX = ".safetensors"


class StatisticsFolder(Mapping[str, Mapping[str, Any]]):
    """The fields of the statistics of each layer, by its name; a file is read when the first of its
    layers is asked for, and kept until one of another is.

    Args:
        folder: of files of `save_statistics`, all of one source.

    Attributes:
        source: of the statistics; None without any file.

    Raises:
        ValueError: a file is damaged, of another source, or has a layer that another has too; from
            a look-up, its numbers are damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.source: dict[str, Any] | None = None
        self._homes: dict[str, Path] = {}
        self._held: tuple[Path | None, Layers] = (None, {})
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            names, source = described_statistics(path)
            if self.source is not None and source != self.source:
                raise ValueError(
                    f"{path} is of another model, of other data or of another kind than the files "
                    "beside it: calibrate anew, into another folder"
                )
            twice = self._homes.keys() & names
            if twice:
                raise ValueError(f"{path}: another file has {names_of(sorted(twice))} too")
            self.source = source
            self._homes |= dict.fromkeys(names, path)

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        path, layers = self._held
        if path != self._homes[name]:
            self._held = (None, {})  # Before the next are there.
            path, layers = self._homes[name], load_statistics(self._homes[name])[0]
            self._held = (path, layers)
        return layers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._homes  # Without reading it, as a mapping's own does.

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)
