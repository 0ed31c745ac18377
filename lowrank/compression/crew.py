"""Work on things that do not depend on each other: one after the other, or by several threads."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")

# How many things are begun or wait for each thread: none idles, and few statistics are in memory.
AHEAD = 2


class Crew(Generic[T]):
    """Threads that work on one thing each; what they did is taken over here, in order.

    Threads and not processes, since torch's kernels run without Python's lock, and neither weights
    nor statistics have to be copied. The threads of torch are divided among them. With one worker
    there is no other thread, and each thing is done and taken over at once.

    Args:
        workers: how many.
        finish: takes over a thing, given a function that returns or raises what its work did.
    """

    def __init__(self, workers: int, finish: Callable[[T, Callable[[], Any]], None]) -> None:
        self.finish = finish
        self.ahead = AHEAD * workers if workers > 1 else 1
        self.begun: deque[tuple[T, Future[Any]]] = deque()
        self.threads = torch.get_num_threads()
        self.pool: ThreadPoolExecutor | None = None
        if workers > 1:
            each = max(1, self.threads // workers)
            state = (each, torch.is_grad_enabled())
            self.pool = ThreadPoolExecutor(workers, "lowrank", _as_in_the_caller, state)

    def __enter__(self) -> Crew[T]:
        return self

    def __exit__(self, *error: object) -> None:
        """End the threads; what was begun and not taken over is lost."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(self.threads)  # The threads' own count is that of new threads.

    def begin(self, thing: T, work: Callable[[], Any]) -> None:
        """Have a thing worked on; before, take over the oldest where many are begun.

        Raises:
            Exception: of the work on one of them, where `finish` lets it pass.
        """
        if self.pool is None:
            self.finish(thing, work)
            return
        while len(self.begun) >= self.ahead:
            self._take_over()
        context = contextvars.copy_context()
        self.begun.append((thing, self.pool.submit(context.run, work)))

    def settle(self) -> None:
        """Wait for all that was begun, and take it over.

        Raises:
            Exception: as `begin`.
        """
        while self.begun:
            self._take_over()

    def _take_over(self) -> None:
        thing, future = self.begun.popleft()
        self.finish(thing, future.result)


def _as_in_the_caller(threads: int, is_grad_enabled: bool) -> None:
    """Give a new thread what torch keeps for each thread."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(is_grad_enabled)
