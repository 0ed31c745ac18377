"""Jobs as tasks of Ray: a killed worker or a lost machine loses only the jobs that it had."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

# What Ray reads when it starts: it sends nothing home, and gives workers the priority of other
# processes, without which what is timed would be others' turns.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
# Seconds in which a cluster answers.
PATIENCE = 20.0
# On Linux too a cluster of this machine then has the loopback address, and others do not reach it:
# given to `ray.init`, that address would be changed for one that they do. Read at the import.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def connect(address: str | None) -> None:
    """Connect this process to a cluster, for as long as it lives.

    Args:
        address: as of `ray.init`: "auto" or host and port; None starts a cluster on this machine,
            which ends with this process.

    Raises:
        ConnectionError: there is no such cluster.
    """
    if address not in (None, "auto"):
        _reach(address)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is None:
        os.environ.update(ALONE)
    import ray

    if ray.is_initialized():
        return
    if address is None:
        ray.init("local", include_dashboard=False, log_to_driver=False)
    else:
        ray.init(address, log_to_driver=False)


def _reach(address: str) -> None:
    """Raise ConnectionError unless something answers there; Ray itself tries for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no cluster answers at hydra.launcher.address={address} ({error}): give auto, the "
            "address that `ray start --head` says, or null for a cluster of this machine"
        ) from error


def check_fits(cpus: float, gpus: float) -> None:
    """Raise ValueError if no machine of the cluster has so many for one job, which would wait for
    ever.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        there = "; ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
        raise ValueError(
            f"hydra.launcher.cpus={cpus:g} and gpus={gpus:g} are more than any machine of the "
            f"cluster has, which are: {there}"
        )


def run_on_cluster(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    at_once: int,
    cpus: float,
    gpus: float,
    lost: Any,
) -> list[Any]:
    """The results of `function` for each task, in their order; `lost` where its worker was.

    Args:
        at_once: how many tasks run at once, at most.
        cpus: how many a task takes, and as many threads.
        gpus: likewise, or a fraction of one.

    Raises:
        Exception: what `function` raises, or that it or its result cannot be read here.
    """
    import ray
    from ray.exceptions import RayError, RaySystemError, RayTaskError, UnserializableException

    # A worker is kept for the next task, with what it has loaded; who tries again is not Ray.
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=0)(_run)
    shared = ray.put((os.getcwd(), function))
    waiting = deque(enumerate(tasks))
    running: dict[Any, int] = {}
    results: list[Any] = [lost] * len(tasks)
    while waiting or running:
        while waiting and len(running) < at_once:
            number, task = waiting.popleft()
            running[remote.remote(shared, task)] = number
        (ended,), _ = ray.wait(list(running), num_returns=1)
        number = running.pop(ended)
        try:
            results[number], *texts = ray.get(ended)
            for stream, text in zip((sys.stdout, sys.stderr), texts, strict=True):
                stream.write(text)
                stream.flush()
        except RayTaskError as error:
            raise error.cause from None
        except (RaySystemError, UnserializableException):
            raise
        except RayError:
            pass  # Its process was killed, or its machine is lost.
    return results


def _run(shared: tuple[str, Callable[[Any], Any]], task: Any) -> tuple[Any, str, str]:
    """What a task gives, and what it prints: the lines that Ray itself forwards come later, or not
    at all, if the program ends.
    """
    folder, function = shared
    os.chdir(folder)  # Where records and data are, by relative paths.
    os.environ["TQDM_DISABLE"] = "1"
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(io.StringIO()) as errors:
        result = function(task)
    return result, said.getvalue(), errors.getvalue()
