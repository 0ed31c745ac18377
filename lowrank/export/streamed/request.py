"""What is asked for: a checkpoint, where it goes, and how its weights are compressed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lowrank.calibration import CalibrationData, NormProvider
from lowrank.compression.compress import Method, Where, as_allocation, as_select
from lowrank.export.checkpoint import FORMAT
from lowrank.files.digest import Digest


@dataclass(frozen=True)
class Request:
    """The arguments of `compress_checkpoint`."""

    source: Path
    target: Path
    method: Method
    where: Where
    norm: NormProvider
    data: CalibrationData | None
    values: str | None
    strict: bool
    dtype: str | None

    @cached_property
    def described(self) -> dict[str, Any]:
        """All that decides over the result, as JSON: the files by their sizes and times."""
        files = [path for path in self.source.iterdir() if path.suffix in (".json", ".safetensors")]
        stats = {path.name: path.stat() for path in sorted(files)}
        return {
            "format": FORMAT,
            "source": {n: [one.st_size, one.st_mtime_ns] for n, one in stats.items()},
            "method": repr(as_allocation(self.method)),
            "where": repr(as_select(self.where)),
            "norm": repr(self.norm),
            "data": None if self.data is None else self.data.fingerprint(),
            "values": self.values,
            "strict": self.strict,
            "dtype": self.dtype,
        }

    @property
    def hash(self) -> str:
        """The hash of `described`, which each file of the result holds."""
        return Digest(self.described).hex()
