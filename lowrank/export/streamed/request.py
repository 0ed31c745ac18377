"""What is asked for: a checkpoint, where it goes, and how its weights are compressed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lowrank.calibration import CalibratedNorms, Calibration, CalibrationData, NormProvider
from lowrank.calibration.data import as_data
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
    data: CalibrationData | Calibration | None
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


def data_for(norms: NormProvider, data: Any) -> CalibrationData | Calibration:
    """The calibration data of norms that need them, or statistics of them.

    Raises:
        ValueError: there are none, or the norms are not those of one block after the other.
    """
    if data is None:
        raise ValueError(f"{norms} needs calibration data: give `data`, or leave out the norm")
    if not isinstance(norms, CalibratedNorms) or norms.needs_loss:
        raise ValueError(
            f"{norms} needs the whole model at once: on disk blocks are calibrated one after the "
            "other, as for norm=CalibratedNorms('full')"
        )
    if isinstance(data, Calibration):
        norms.check_saved()
        return data
    return as_data(data, norms.batch_size)
