"""Identity of a process across machines, and whether the process has ended."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

# How a process stands in the name of a file that is its own; see `Owner.label`.
LABEL = r"(?P<host>\w{8})-(?P<process>\d+)-(?P<started>\d+)"


@dataclass(frozen=True)
class Owner:
    """The identity of a process, unique also among machines that share a file system.

    Attributes:
        host: the machine since its last start, and which processes it shows, as in a container.
        pid: its number there.
        started: when it started, in ticks of the machine, because numbers are used again; 0 where
            the machine does not say.
    """

    host: str
    pid: int
    started: int

    @property
    def label(self) -> str:
        """A part of a file's name that tells it from other processes."""
        return f"{short(self.host)}-{self.pid}-{self.started}"

    @property
    def is_gone(self) -> bool:
        """Whether it is of this machine and has ended; False for those of other machines."""
        return self.host == _host() and _started(self.pid) != self.started


def this_process() -> Owner:
    """The process that asks."""
    return Owner(_host(), os.getpid(), _started(os.getpid()) or 0)


def is_of_the_gone(label: re.Match[str]) -> bool:
    """Whether what has this label, a match of `LABEL`, is of a process here that has ended."""
    owner = Owner(_host(), int(label["process"]), int(label["started"]))
    return label["host"] == short(owner.host) and owner.is_gone


def short(text: str) -> str:
    """Eight letters that stand for a text in the name of a file."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


@functools.cache
def _host() -> str:
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().partition("-")[0])
        parts.append(os.readlink("/proc/self/ns/pid").strip("pid:[]"))
    except OSError:
        parts.append(f"{uuid.getnode():x}")  # Where there is no such thing.
    return "-".join(parts)


def _started(pid: int) -> int | None:
    """When a process of this machine started; None if there is none of that number."""
    try:
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() or not _answers(pid) else 0
    return None if fields[0] in "ZX" else int(fields[19])


def _answers(pid: int) -> bool:
    if os.name != "posix":
        return True  # Elsewhere the question would end the process.
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # Somebody else's.
    return True
