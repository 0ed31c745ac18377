"""Worker processes: a killed one loses only its current point, and none outlives its parent."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import joblib
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import BrokenProcessPool

# Seconds between two looks of a worker at whether its parent is still there.
PAUSE = 0.5
# The environment variables for the number of threads of linear algebra libraries.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def worker_count(n_jobs: object) -> int:
    """The number of workers for `n_jobs`: −1 is one for each core that this process may use.

    Raises:
        ValueError: neither that nor a whole number from 1.
    """
    if type(n_jobs) is not int or (n_jobs < 1 and n_jobs != -1):
        raise ValueError(
            f"hydra.launcher.n_jobs={n_jobs!r} must be a whole number from 1, or -1 for one on "
            "each core"
        )
    return n_jobs if n_jobs > 0 else joblib.cpu_count()


def run_in_workers(
    function: Callable[[Any], Any], tasks: Sequence[Any], workers: int, lost: Any
) -> list[Any]:
    """The results of `function` for each task, in their order; `lost` where a worker was killed.

    Each worker is a pool of its own, because a pool ends all its workers with one that is lost.

    Args:
        workers: how many there are at once; the cores are divided among them.

    Raises:
        Exception: what `function` raises; the others are then ended.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(tasks)):
        waiting.put(number)
    pools = [_Pool(workers) for _ in range(min(workers, len(tasks)))]
    results: list[Any] = [lost] * len(tasks)
    errors: list[BaseException] = []

    def serve(pool: _Pool) -> None:
        while not errors:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                results[number] = pool.run(function, tasks[number])
            except BrokenProcessPool:
                pool.renew()
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=serve, args=(pool,), daemon=True) for pool in pools]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # A join without an end could not be interrupted everywhere.
                thread.join(PAUSE)
    except BaseException as error:
        errors.append(error)
        raise
    finally:
        for pool in pools:
            pool.end()
    if errors:
        raise errors[0]
    return results


class _Pool:
    """One worker, and another if it is lost.

    Args:
        sharing: among how many the cores are divided.
    """

    def __init__(self, sharing: int) -> None:
        each = str(max(1, joblib.cpu_count() // sharing))
        self.environment = {name: os.environ.get(name, each) for name in THREADS}
        if sharing > 1:
            self.environment["TQDM_DISABLE"] = "1"  # Bars on one line would overwrite each other.
        self.renew()

    def renew(self) -> None:
        self.executor = ProcessPoolExecutor(
            max_workers=1,
            initializer=end_with_parent,
            initargs=(os.getpid(),),
            env=self.environment,
        )

    def run(self, function: Callable[[Any], Any], task: Any) -> Any:
        return self.executor.submit(function, task).result()

    def end(self) -> None:
        self.executor.shutdown(wait=False, kill_workers=True)


def end_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, however it went."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
