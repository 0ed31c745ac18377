"""Jobs as tasks of Ray: a killed worker or a lost machine loses only the jobs that it had."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

# What Ray reads when it starts: it shows all lines of workers, plain, sends nothing home, and gives
# workers the priority of other processes, without which what is timed would be others' turns.
SETTINGS = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
# Seconds after which the last lines of workers have come, as in Ray's own shutdown.
DRAIN = 0.5
# Of a cluster on this machine alone, so that nothing listens to others.
LOOPBACK = "127.0.0.1"


def connect(address: str | None) -> None:
    """Connect this process to a cluster, for as long as it lives.

    Args:
        address: as of `ray.init`: "auto" or host and port; None starts a cluster on this machine,
            which ends with this process.

    Raises:
        ConnectionError: there is no such cluster.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    if address is None:
        ray.init("local", include_dashboard=False, _node_ip_address=LOOPBACK)
    else:
        ray.init(address)


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
        Exception: what `function` raises.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

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
            results[number] = ray.get(ended)
        except RayTaskError as error:
            raise error.cause from None
        except RayError:
            pass  # Its process was killed, or its machine is lost.
    time.sleep(DRAIN)
    return results


def _run(shared: tuple[str, Callable[[Any], Any]], task: Any) -> Any:
    folder, function = shared
    os.chdir(folder)  # Where records and data are, by relative paths.
    os.environ["TQDM_DISABLE"] = "1"  # Bars of several workers would overwrite each other.
    return function(task)
