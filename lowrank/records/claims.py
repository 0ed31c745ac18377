"""Claims on points: of several processes, only the one with a live claim measures a point.

A claim is a file ``<key>.claim`` beside the records. It is created exclusively, which only one
process can do, on shared file systems too, and its time of change is its heartbeat. A process that
takes over a dead claim creates ``<key>.<token of the dead claim>.claim``, exclusively again, so
that only one process can. The last file of such a chain is the valid claim. To give up a claim, the
first file of the chain is removed first, which invalidates the whole chain. A process whose claim
was taken over although it is alive removes nothing of its successor's chain.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lowrank.files.atomic import clock, read_replaced
from lowrank.files.processes import Owner, this_process

SUFFIX = ".claim"
# Seconds without a heartbeat after which a claim is dead, for processes of machines that cannot be
# asked, and heartbeats in that time.
TIMEOUT = 120.0
BEATS = 8
# Seconds between two tries of whoever waits.
PAUSE = 0.01
# Bytes; those that are made here have some 200.
LONGEST = 10_000


@dataclass(frozen=True)
class Holder:
    """The content of a claim.

    Attributes:
        owner: its process; None if it cannot be read.
        token: a unique identifier of the claim; if it cannot be read, derived from its file name.
        beat: its last heartbeat, by the file system's clock, in seconds.
    """

    owner: Owner | None
    token: str
    beat: float


class Link(NamedTuple):
    """A file of a chain, and the token in it."""

    path: Path
    token: str

    @property
    def is_there(self) -> bool:
        """Whether the file is still this claim, and not one that was made there since."""
        holder = _read(self.path)
        return holder is not None and holder.token == self.token


@dataclass(frozen=True)
class Claims:
    """The claims in a folder of records.

    Args:
        folder: of the records; it must be there.
        timeout: seconds without a heartbeat after which a claim is dead.
    """

    folder: Path
    timeout: float = TIMEOUT

    @contextmanager
    def taking(self, key: str) -> Iterator[bool]:
        """Claim a point; inside whether it is claimed, and afterwards it no longer is.

        Raises:
            OSError: the folder cannot be written.
        """
        chain = self._take(key)
        if chain is None:
            yield False
            return
        done = threading.Event()
        beating = threading.Thread(target=self._beat, args=(chain[-1], done), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            done.set()
            beating.join()
            self._give_up(chain)

    @contextmanager
    def waiting(self, key: str) -> Iterator[None]:
        """Claim what nobody holds for long, as soon as it is free.

        Raises:
            OSError: the folder cannot be written.
        """
        while True:
            with self.taking(key) as is_ours:
                if is_ours:
                    yield
                    return
            time.sleep(PAUSE)

    def is_there(self, key: str) -> bool:
        """Whether there is a claim, of a living process or of a dead one."""
        return (self.folder / f"{key}{SUFFIX}").exists()

    def is_held(self, key: str) -> bool:
        """Whether a living process has claimed a point."""
        *_, (_, holder) = self._chain(key)
        return holder is not None

    def clean(self) -> None:
        """Remove the claims of dead processes, and what they left that died giving theirs up.

        Raises:
            OSError: the folder cannot be written.
        """
        paths: dict[str, list[Path]] = {}
        for path in self.folder.glob(f"*{SUFFIX}"):
            paths.setdefault(path.name.partition(".")[0], []).append(path)
        for key, found in paths.items():
            chain = self._take(key)
            if chain is not None:
                own = [link.path for link in chain]
                for path in found:
                    if path not in own:
                        path.unlink(missing_ok=True)
                self._give_up(chain)

    def now(self) -> float:
        """The time by the clock of the file system, in seconds."""
        return clock(self.folder)

    def _take(self, key: str) -> list[Link] | None:
        """The chain that ends in a claim of this process; None if it got none."""
        *dead, (path, holder) = self._chain(key)
        if holder is not None:
            return None
        token = uuid.uuid4().hex
        if not _make(path, token):
            return None
        if dead and path not in [path for path, _ in self._links(key)]:
            path.unlink(missing_ok=True)  # The chain was given up in the meantime.
            return None
        return [*(Link(path, one.token) for path, one in dead if one), Link(path, token)]

    def _give_up(self, chain: Sequence[Link]) -> None:
        """Remove a chain, unless another process has taken it over."""
        last = chain[-1]
        key = last.path.name.partition(".")[0]
        if last.is_there and self._successor(key, last.token).exists():
            return
        for link in chain:
            if link.is_there:
                link.path.unlink(missing_ok=True)

    def _successor(self, key: str, token: str) -> Path:
        return self.folder / f"{key}.{token}{SUFFIX}"

    def _chain(self, key: str) -> Iterator[tuple[Path, Holder | None]]:
        """The dead claims of a point, and last the living one, or the path at which to make one."""
        now = None
        for path, holder in self._links(key):
            if holder is None:
                yield path, None
                return
            now = self.now() if now is None else now
            is_gone = holder.owner is not None and holder.owner.is_gone
            yield path, holder
            if not is_gone and now - holder.beat <= self.timeout:
                return

    def _links(self, key: str) -> Iterator[tuple[Path, Holder | None]]:
        """All files of the chain of a point, and last a path at which there is none."""
        path = self.folder / f"{key}{SUFFIX}"
        while True:
            holder = _read(path)
            yield path, holder
            if holder is None:
                return
            path = self._successor(key, holder.token)

    def _beat(self, claim: Link, done: threading.Event) -> None:
        while not done.wait(self.timeout / BEATS):
            try:
                if claim.is_there:
                    os.utime(claim.path)
            except OSError:
                continue  # Another process took it over, or the file system fails for now.


def _make(path: Path, token: str) -> bool:
    """Make a claim of this process; whether no other was faster."""
    said = asdict(this_process()) | {"token": token, "since": datetime.now(UTC).isoformat()}
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(said))
    except OSError as error:
        # The disk is full; an empty claim would hold the point until it is dead.
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return True


def _read(path: Path) -> Holder | None:
    """The content of a claim; None if there is none."""
    try:
        text, beat = read_replaced(path, LONGEST)
    except FileNotFoundError:
        return None
    try:
        said = json.loads(text)
        owner = Owner(str(said["host"]), int(said["pid"]), int(said["started"]))
        return Holder(owner, uuid.UUID(said["token"]).hex, beat)
    # Torn by a full disk, edited, or just being written.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Holder(None, hashlib.sha256(path.name.encode()).hexdigest()[:32], beat)
