"""The environment of a measurement: code, libraries and machine."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

# Libraries whose version can change a number in a record.
LIBRARIES = (
    *("lowrank", "torch", "numpy", "scipy", "scikit-learn", "datasets", "torchmetrics"),
    *("safetensors", "transformers", "lm_eval", "hydra-core"),
)


def environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """The facts that a record carries about where it was made.

    Returns:
        The version of each installed library; ``python``; ``device`` (the name of the accelerator,
        or "cpu"); ``cpu``; ``threads`` of torch; ``git_commit`` and ``git_dirty`` (uncommitted
        changes) of the repository that lowrank runs from, both None where it is installed without.
    """
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        **_versions(),
        "python": platform.python_version(),
        "device": name,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        **_git(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def _cpu() -> str:
    # platform.processor() is empty or only "x86_64" on Linux.
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache
def _git() -> dict[str, str | bool | None]:
    """The output of git, cached: the running code is that of the start, not of later edits."""
    source = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source.parent), *arguments]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()

    try:
        # A virtual environment may lie in another repository, which does not track lowrank.
        git("ls-files", "--error-unmatch", source.parent.joinpath("__init__.py").name)
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "-s"))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}
