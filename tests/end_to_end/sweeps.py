"""Runs the sweep program as its user does, and reads what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import programs

ROOT = Path(__file__).resolve().parents[2]

# What may differ between two runs of one point, besides its times.
MACHINE = {"environment", "latency", "timings"}


def command(*arguments: str) -> list[str]:
    """The sweep on the digits with short timings."""
    fixed = ["threads=1", "measure=quick"]
    return [sys.executable, "-m", "experiments.sweep", *fixed, *arguments]


def environment(cache: Path) -> dict[str, str]:
    return os.environ | {"LOWRANK_CACHE": str(cache)}


def run(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A sweep from its start to its end."""
    return programs.run(*command(*arguments)[1:], cwd=ROOT, env=environment(cache))


def start(cache: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A sweep in a process group of its own, so that it can be killed with its workers."""
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # A test run in the background of a shell ignores interrupts, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder by file name, without what no two runs have in common."""
    found = {}
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        record["config"].pop("results")
        found[path.name] = {name: part for name, part in record.items() if name not in MACHINE}
    return found
