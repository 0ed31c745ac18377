"""The memory of this process, as the kernel tells it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

RESIDENT, PEAK = "VmRSS", "VmHWM"


def status(field: str) -> int | None:
    """A memory of this process in bytes; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Set the most resident memory back to what is resident now, where the system allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
