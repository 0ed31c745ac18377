"""A folder of results that take long to compute, each in a file named by what it is of.

A file is written whole or not at all, and holds its key and a hash of its content. What is damaged,
or is of another key, is computed anew. Processes that compute the same at the same time write the
same file; the last one stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from lowrank.files.tensor_files import opened, write
from lowrank.files.tensor_trees import from_tree, nbytes, to_tree

logger = logging.getLogger(__name__)

KIND, FORMAT, SUFFIX = "kernel result", 1, ".safetensors"
# Bytes per second below which computing a result is faster than reading it from a disk.
RATE = 200e6


@dataclass(frozen=True)
class KernelFolder:
    """A store of results on disk that forgets the least recently used beyond `limit_bytes`.

    Args:
        folder: which is there; processes and machines may share it.
        limit_bytes: of all files together.
        stamp: what results depend on besides their keys, such as versions and the processor.
        least_seconds: a result that was computed faster than that is not kept.
    """

    folder: Path
    limit_bytes: int
    stamp: str
    least_seconds: float = 0.05

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The kept result of a key, or that of `compute()`, kept if that took longer than reading.

        Tensors come back with the same numbers, dtype, device and layout in memory.
        """
        path = self._path(key)
        found = self._read(path, key)
        if found is not None:
            return found[0]
        begun = time.perf_counter()
        result = compute()
        self._keep(path, key, result, time.perf_counter() - begun)
        return result

    def _path(self, key: str) -> Path:
        name = xxhash.xxh3_128_hexdigest(f"{self.stamp} {key}".encode())
        return self.folder / f"{name}{SUFFIX}"

    def _read(self, path: Path, key: str) -> tuple[Any] | None:
        """The result in a file; None if there is none, or none that can be believed."""
        try:
            with opened(path, KIND, FORMAT, "lowrank.kernel_cache") as file:
                if (file.header.get("key"), file.header.get("stamp")) != (key, self.stamp):
                    raise ValueError("it is of another key")
                tensors, is_whole = file.read()
                if not is_whole:
                    raise ValueError("it is damaged: its content is not what was written")
                found = from_tree(file.header.get("tree"), tensors)
            path.touch()  # The time of its last use.
        except FileNotFoundError:  # Or removed by another process just now.
            return None
        except (ValueError, LookupError, TypeError, RuntimeError, OSError) as error:
            logger.warning("not taken from the kernel cache, but computed anew: %s", error)
            return None
        return (found,)

    def _keep(self, path: Path, key: str, result: Any, seconds: float) -> None:
        size = nbytes(result)
        if seconds < max(self.least_seconds, size / RATE) or size > self.limit_bytes:
            return
        try:
            tensors: dict[str, Any] = {}
            header = {"format": FORMAT, "key": key, "stamp": self.stamp}
            header["tree"] = to_tree(result, tensors)
            write(path, tensors, KIND, header)
            self._forget()
        except ValueError:  # It is nothing that such a file holds.
            return
        except OSError as error:  # As of a full disk: the result is there all the same.
            logger.warning("not kept in the kernel cache: %s", error)

    def _forget(self) -> None:
        """Remove the files that were not used for longest, until the others fit the limit."""
        found = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            try:
                about = path.stat()
            except FileNotFoundError:
                continue
            found.append((about.st_mtime_ns, about.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size
