"""Free memory of this process on a device."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
# Files of a control group: its limit, its usage, and the name of the page cache in its statistics.
LAYOUTS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory(device: str | torch.device = "cpu") -> float:
    """Bytes that this process can still allocate on a device; infinite if that is not known.

    On the CPU the least of three: the free memory of the machine, of the control groups of a
    container or batch system, and of the limit of the process's address space. Swap does not count.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    if device.type != "cpu":
        return math.inf
    return min(_of_machine(), _of_address_space(), *_of_control_groups(), math.inf)


def _of_machine() -> float:
    fields = _fields(Path("/proc/meminfo"))
    if "MemAvailable:" in fields:
        return 1024.0 * fields["MemAvailable:"]
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return math.inf


def _of_address_space() -> float:
    try:
        import resource
    except ImportError:  # Windows has none.
        return math.inf
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    return limit - 1024.0 * _fields(Path("/proc/self/status")).get("VmSize:", 0)


def _of_control_groups() -> Iterator[float]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        # A container sees its own group as the root, under another name than outside.
        own = root / name.lstrip("/")
        for folder in {root, *(f for f in (own, *own.parents) if f.is_relative_to(root))}:
            yield from _of_control_group(folder)


def _of_control_group(folder: Path) -> Iterator[float]:
    for limit, usage, cache in LAYOUTS:
        try:
            most = (folder / limit).read_text().strip()
            used = int((folder / usage).read_text())
        except (OSError, ValueError):
            continue
        if most != "max":
            yield int(most) - used + _fields(folder / "memory.stat").get(cache, 0)


def _fields(file: Path) -> dict[str, int]:
    """The first number after each name in a file of the kernel's; none if it is not there."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
