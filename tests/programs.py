"""Programs, run as their users run them but without the seconds of their imports.

Where the start itself is what is tested, such as what a program imports, take `subprocess`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SERVER = Path(__file__).with_name("program_server.py")
# What most programs import, but none that is a program itself, which `runpy` wants to import.
IMPORTED = (
    *("experiments.checks", "experiments.composed", "experiments.point", "experiments.seeds"),
    *("experiments.workers", "hydra.main", "joblib", "lowrank.reporting.tables"),
    *("sklearn.datasets", "torchmetrics.classification"),
)


def run(
    *words: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str = "",
    timeout: int = 120,
    imported: tuple[str, ...] = IMPORTED,
) -> subprocess.CompletedProcess[str]:
    """What became of ``python`` with these words, in a fresh process.

    Args:
        words: ``-m`` and a module, ``-c`` and code, or a file; then its arguments.
        cwd: by default that of this process, as its environment is.
        input: all of its standard input.
        timeout: in seconds; then the process and its children are killed.
        imported: the modules that it need not import.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    server = _server(imported)
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("in", "out", "err")]
        files[0].write_text(input)
        for file in files[1:]:
            file.touch()
        program = {
            "words": words,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(env or os.environ),
            "files": [str(file) for file in files],
            "timeout": timeout,
        }
        print(json.dumps(program), file=server.stdin, flush=True)
        code = server.stdout.readline()
        assert code, "the server of programs has ended"
        said, errors = (file.read_text() for file in files[1:])
    if int(code) == -signal.SIGALRM:
        raise subprocess.TimeoutExpired(words, timeout, said, errors)
    return subprocess.CompletedProcess(words, int(code), said, errors)


@functools.cache
def _server(imported: tuple[str, ...]) -> subprocess.Popen[str]:
    """One for all tests of this process; it ends with it."""
    command = [sys.executable, SERVER, *imported]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def end() -> None:
        server.communicate()

    atexit.register(end)
    return server
