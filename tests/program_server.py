"""Runs Python programs, each in a process of its own, without importing torch and Hydra for each.

    python program_server.py torch sklearn.datasets    # what is imported before any of them

Each line of standard input asks for one (JSON): "words", what follows ``python`` on the command
line; "cwd" and "env"; "files", those of its standard input, output and errors; and "timeout" in
seconds. Each line of standard output is the exit code of one, or minus the signal that ended it.
"""

import contextlib
import gc
import importlib.util
import json
import os
import runpy
import signal
import sys


def asked() -> dict | None:
    """What a process forked here is to run; None in the server itself, once nobody asks."""
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            os.setpgrp()
            return json.loads(line)
        status = None
        try:
            _, status = os.waitpid(process, 0)
        finally:
            if status is None or os.WIFSIGNALED(status):
                # Of a program that was killed, its children live on.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def run(words: list[str], cwd: str, env: dict[str, str], files: list[str], timeout: int) -> None:
    """Become the program, as `python` with these words is."""
    signal.alarm(timeout)
    for number, (name, flags) in enumerate(
        zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)
    ):
        os.dup2(os.open(name, flags), number)
    # What is still to be read from the pipe is not the program's.
    sys.stdin = open(0, closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    below = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    match words:
        case ["-m", module, *arguments]:
            sys.path[:1] = [cwd, *below]
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.path[:1] = ["", *below]
            sys.argv = ["-c", *arguments]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case [script, *arguments]:
            sys.path[:1] = [os.path.dirname(script), *below]
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    for module in sys.argv[1:]:
        # Packages may be missing; what they hold may not, or every program imports it again.
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    program = asked()
    if program is not None:
        run(**program)
